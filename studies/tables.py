"""What every study writes beside its figures: all rows as CSV, and what they say as Markdown."""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A line a row, whole or not at all; a column a name that a row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    part = file.with_suffix(".part")
    with part.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, file)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of cells."""
    rows = [f"| {' | '.join(cells)} |" for cells in (heads, *lines)]
    return "\n".join([rows[0], f"|{'---|' * len(heads)}", *rows[1:]]) + "\n"


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Mean and standard deviation; of large or single numbers the mean."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):{form}}"
    if len(values) == 1 or form != ".3g":
        return mean
    return f"{mean} ± {statistics.stdev(values):.2g}"

"""What a sweep is: settings and their runs, and the file by which its folder knows it again."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app
from ml_collections import ConfigDict

import population
import runs
import search
import starts

# In which workers of a search may differ.
OF_A_MACHINE = (
    "devices",
    "shard_state",
    "stream",
    "stream_workers",
    "data_dir",
    "inception_weights",
)
UNUSUAL = r"[^\w.=,+-]"  # in a folder's name


class Run(NamedTuple):
    """A setting, by its fields and their values as on the command line, and one seed."""

    setting: dict[str, str]
    config: ConfigDict
    workdir: Path
    prepared: starts.Prepared


class Sweep(NamedTuple):
    """What the command line asks for, checked, and what its runs share in this process.

    Attributes:
      base: the config without grid and search.
      grid: values by field.
      space: what is searched in; empty without a search.
      seeds: of each setting.
      target: the metric that ranks.
      workdir: the sweep's folder.
      known: what configs of the same data are trained with.
      compiled: the structures whose programs are held.
    """

    base: ConfigDict
    grid: dict[str, list[str]]
    space: search.Space
    seeds: int
    target: str
    workdir: Path
    known: dict[tuple, starts.Prepared]
    compiled: set[Any]


def seeds_of(base: ConfigDict, num: int, draw: int = 0) -> range:
    """Of the `num` runs of a setting; one that comes again, for the `draw`th time, has others."""
    first = base.seed + draw * num
    return range(first, first + num)


def folder_name(i: int, setting: dict[str, str]) -> str:
    """Of its runs' folders, in the sweep's; `i` is its place in the grid, or its slot."""
    name = ",".join(f"{field}={value}" for field, value in setting.items()) or "as_it_is"
    return f"{i:03}-{re.sub(UNUSUAL, '_', name)[:150]}"


def name_of(setting: dict[str, str]) -> str:
    """In words, for tables and messages."""
    return ", ".join(f"{field}={value}" for field, value in setting.items()) or "as it is"


@contextlib.contextmanager
def naming(setting: dict[str, str]) -> Iterator[None]:
    """Puts the setting, where there is one, before what a user's mistake in it is said to be."""
    try:
        yield
    except app.UsageError as error:
        whose = f"{name_of(setting)}: " if setting else ""
        raise app.UsageError(f"{whose}{error}") from error


def check_differ(members: Sequence[Run]) -> None:
    """No two runs are the same one, in other words such as 1 and 1.0.

    Raises:
      app.UsageError: two are.
    """
    seen: dict[str, dict[str, str]] = {}
    for run in members:
        config = json.dumps(run.config.to_dict(), sort_keys=True)
        before = seen.setdefault(config, run.setting)
        if before != run.setting:
            names = f"{name_of(before)} and {name_of(run.setting)}"
            raise app.UsageError(f"{names} are the same setting")


def by_structure(members: Sequence[Run]) -> list[list[Run]]:
    """Those that one compiled program can train, together."""
    groups: dict[Any, list[Run]] = {}
    for run in members:
        groups.setdefault(structure(run), []).append(run)
    return list(groups.values())


def structure(run: Run) -> Any:
    """What its compiled program depends on."""
    return population.structure(run.prepared.gan, run.config)


def swept(sweep: Sweep) -> dict[str, Any]:
    """What makes a sweep this one, as JSON has it."""
    config = without(OF_A_MACHINE, runs.flatten(sweep.base.to_dict()))
    found = {"config": config, "grid": sweep.grid, "seeds": sweep.seeds}
    if sweep.space:
        found |= {"search": sweep.space, "target": sweep.target}
    return json.loads(json.dumps(found))


def without(fields: Sequence[str], config: dict[str, Any]) -> dict[str, Any]:
    """A config by dotted names, but for those fields and what is in them."""
    return {name: value for name, value in config.items() if name.split(".")[0] not in fields}


def differences(
    before: dict[str, Any], now: dict[str, Any], resumable: Sequence[str] = ()
) -> list[str]:
    """Why what was swept is not this sweep, in words; empty where it is.

    Args:
      before: `swept` of this revision or an older one, which lacks fields, and has a machine's.
      now: `swept`.
      resumable: fields that may be others than before.
    """
    free = [*OF_A_MACHINE, *resumable]
    old, new = (
        {f"config.{k}": v for k, v in without(free, runs.completed(each["config"])).items()}
        | {f"--{key}": value for key, value in each.items() if key != "config"}
        for each in (before, now)
    )
    found = [
        f"{name} ({old.get(name)} there, {new.get(name)} now)"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]
    # Folders have their names, and states their places, by the order of the fields.
    orders = [[list(each.get(key, {})) for key in ("grid", "search")] for each in (before, now)]
    if not found and orders[0] != orders[1]:
        found.append(f"fields in another order ({', '.join([*orders[0][0], *orders[0][1]])} there)")
    return found


def check_folder(sweep: Sweep, resumable: Sequence[str] = ()) -> None:
    """Holds what is swept against what has begun in its folder; writes nothing.

    Args:
      resumable: fields that may be others than there.
    Raises:
      app.UsageError: another sweep has.
    """
    workdir, now = sweep.workdir, swept(sweep)
    file = workdir / "sweep.json"
    try:
        if file.exists():
            before = json.loads(file.read_text())
            if changed := differences(before, now, resumable):
                raise app.UsageError(
                    f"workdir {workdir} holds another sweep: {', '.join(changed)}. "
                    "Go on with its own command, or choose another --workdir"
                )
        elif workdir.exists() and any(p for p in workdir.iterdir() if "sweep.json" not in p.name):
            raise app.UsageError(f"workdir {workdir} is not empty, and holds no sweep")
    except OSError as error:
        raise app.UsageError(f"workdir {workdir}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise app.UsageError(f"workdir {workdir}: {file} is damaged: {error}") from error


def remember(sweep: Sweep) -> None:
    """Writes down what is swept.

    Raises:
      app.UsageError: the folder cannot be made.
      OSError: the disk is full.
    """
    try:
        sweep.workdir.mkdir(parents=True, exist_ok=True)
        runs.replace(sweep.workdir / "sweep.json", json.dumps(swept(sweep), indent=2) + "\n")
    except OSError as error:
        if error.errno in runs.DISK_IS_FULL:
            raise
        raise app.UsageError(f"workdir {sweep.workdir}: {error.strerror}") from error

"""Pages that one looks at: a sweep's curves, ranking and samples in one HTML file.

No script and no link to elsewhere: it can be mailed, and opened without a network.
"""

from __future__ import annotations

import base64
import html
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import population

# Told apart by the colour-blind, too: those of Okabe and Ito 2008, then Tol's muted ones.
COLOURS: tuple[str, ...] = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#999999",
)
COLOURS += ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255")
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 260, 70, 30  # pixels of a chart, and of its axes' numbers
DRAWN = ("train/d_loss", "train/g_loss")  # curves beside the target's
STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
svg { max-width: 100%; height: auto } svg text { font-size: 12px }
figure { display: inline-block; margin: 0 1em 1em 0; vertical-align: top; width: 330px }
figure img { width: 100% } figcaption { font-size: 14px; overflow-wrap: anywhere }
i { display: inline-block; width: 1em; height: .7em; margin-right: .4em }
"""


class Curve(NamedTuple):
    """A run: its folder, and the rows of its metrics.jsonl."""

    workdir: Path
    rows: list[dict[str, Any]]


class Rank(NamedTuple):
    """A setting, by the last values of the target in its runs.

    Attributes:
      setting: in words.
      mean, deviation, best: over the runs that have the target; None where none, or one, has.
      best_run: the folder of the best.
      num: how many have it.
      lost: how many have no finite numbers any more.
    """

    setting: str
    mean: float | None
    deviation: float | None
    best: float | None
    best_run: Path | None
    num: int
    lost: int


def rank(
    settings: dict[str, list[Curve]], target: str, distance: Callable[[float], float]
) -> list[Rank]:
    """The settings, the best mean first.

    Args:
      settings: the runs by setting.
      target: a metric's name; a lost run has none.
      distance: falls as the target gets better.
    """
    found = []
    for setting, curves in settings.items():
        values, lost = {}, 0
        for curve in curves:
            if curve.rows and population.is_lost(curve.rows[-1]):
                lost += 1
                continue
            if points := [row[target] for row in curve.rows if row.get(target) is not None]:
                values[curve.workdir] = points[-1]
        mean = statistics.fmean(values.values()) if values else None
        deviation = statistics.stdev(values.values()) if len(values) > 1 else None
        best_run = min(values, key=lambda run: distance(values[run]), default=None)
        best = values[best_run] if best_run else None
        found.append(Rank(setting, mean, deviation, best, best_run, len(values), lost))
    return sorted(found, key=lambda r: math.inf if r.mean is None else distance(r.mean))


def ranking_text(ranking: Sequence[Rank], target: str) -> str:
    """A table for a terminal."""
    width = max(len(r.setting) for r in ranking)
    lines = [f"{target:{width}}{'mean':>11}{'+-':>11}{'best':>11}{'runs':>6}{'lost':>6}"]
    for r in ranking:
        cells = "".join(f"{_figure(x):>11}" for x in (r.mean, r.deviation, r.best))
        lines.append(f"{r.setting:{width}}{cells}{r.num:>6}{r.lost:>6}")
    return "\n".join(lines)


def sweep_page(
    title: str, settings: dict[str, list[Curve]], ranking: Sequence[Rank], target: str
) -> str:
    """The page: the ranking, curves with mean and spread over seeds, the best runs' samples."""
    order = [r.setting for r in ranking]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(order)}
    heads = ("setting", "mean", "deviation", "best", "runs", "lost")
    table = [f"<tr>{''.join(f'<th>{name}</th>' for name in heads)}</tr>"]
    figures = []
    for r in ranking:
        label = f'<i style="background:{colours[r.setting]}"></i>{html.escape(r.setting)}'
        numbers = [_figure(x) for x in (r.mean, r.deviation, r.best)]
        cells = [label, *numbers, str(r.num), str(r.lost)]
        table.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        pictures = sorted((r.best_run / "samples").glob("*.png")) if r.best_run else []
        if pictures:
            data = base64.b64encode(pictures[-1].read_bytes()).decode()
            words = f"{label}: {_figure(r.best)}, {r.best_run.name if r.best_run else ''}"
            alt = html.escape(f"samples of {r.setting}", quote=True)
            image = f'<img src="data:image/png;base64,{data}" alt="{alt}">'
            figures.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>")
    charts = []
    for metric in dict.fromkeys((target, *DRAWN)):
        means = {
            name: population.mean_and_spread([c.rows for c in settings[name]]) for name in order
        }
        charts.append(f"<h2>{html.escape(metric)}</h2>{chart(means, metric, colours)}")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style>",
            f"<h1>{html.escape(title)}</h1>",
            f"<p>Ranked by the last <code>{html.escape(target)}</code>: mean and deviation",
            "over seeds. A lost run has no finite numbers any more.</p>",
            f"<table>{''.join(table)}</table>",
            *charts,
            "<h2>The last samples of each setting's best run</h2>",
            *figures,
            "</html>",
        ]
    )


def chart(means: dict[str, list[dict[str, Any]]], metric: str, colours: dict[str, str]) -> str:
    """An SVG of a metric over images: a line a setting, in a band of a standard deviation.

    Args:
      means: by setting, rows of `population.mean_and_spread`.
      metric: which of their figures.
      colours: by setting.
    """
    curves = {
        name: [
            (row["images"], row[metric], row.get(f"{metric}_std", 0.0))
            for row in rows
            if metric in row
        ]
        for name, rows in means.items()
    }
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return "<p>No run has it yet.</p>"
    last = max(x for x, _, _ in points)
    low, high = min(y - s for _, y, s in points), max(y + s for _, y, s in points)
    span = (high - low) or 1.0

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - 10) * x / last
        return f"{across:.1f},{(HEIGHT - BOTTOM) - (HEIGHT - BOTTOM - 10) * (y - low) / span:.1f}"

    parts = []
    for i in range(5):
        y = low + span * i / 4
        left, right = place(0, y), place(last, y)
        (x1, y1), (x2, y2) = left.split(","), right.split(",")
        parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y1}" text-anchor="end" dy="4">{y:.3g}</text>')
        x = place(last * i / 4, low).split(",")[0]
        anchor = "end" if i == 4 else "middle"
        words = f"{last * i / 4:,.0f}" + (" images" if i == 4 else "")
        parts.append(f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="{anchor}">{words}</text>')
    for name, curve in curves.items():
        if not curve:
            continue
        above = [place(x, y + s) for x, y, s in curve]
        below = [place(x, y - s) for x, y, s in reversed(curve)]
        colour, words = colours[name], f"<title>{html.escape(name)}</title>"
        parts.append(f'<polygon points="{" ".join(above + below)}" fill="{colour}" opacity=".18"/>')
        line = " ".join(place(x, y) for x, y, _ in curve)
        drawn = f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2">'
        parts.append(f"{drawn}{words}</polyline>")
        across, up = place(*curve[-1][:2]).split(",")
        parts.append(f'<circle cx="{across}" cy="{up}" r="4" fill="{colour}">{words}</circle>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"

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
    """A run: its folder, the rows of its metrics.jsonl, whether a search has ended it early."""

    workdir: Path
    rows: list[dict[str, Any]]
    pruned: bool = False


class Searched(NamedTuple):
    """A number that was searched: its config field, whether on a logarithmic scale, its values."""

    field: str
    log: bool
    values: dict[str, float]  # by setting


class Rank(NamedTuple):
    """A setting, by the last values of the target in its runs.

    Attributes:
      setting: in words.
      mean, deviation, best: over the runs that have the target; None where none, or one, has.
      best_run: the folder of the best.
      num: how many have it, pruned ones aside.
      lost: how many have no finite numbers any more.
      pruned: how many a search has ended early.
    """

    setting: str
    mean: float | None
    deviation: float | None
    best: float | None
    best_run: Path | None
    num: int
    lost: int
    pruned: int


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
        values, lost, pruned = {}, 0, 0
        for curve in curves:
            if curve.rows and population.is_lost(curve.rows[-1]):
                lost += 1
                continue
            if curve.pruned:
                pruned += 1
                continue
            if points := [row[target] for row in curve.rows if row.get(target) is not None]:
                values[curve.workdir] = points[-1]
        mean = statistics.fmean(values.values()) if values else None
        deviation = statistics.stdev(values.values()) if len(values) > 1 else None
        best_run = min(values, key=lambda run: distance(values[run]), default=None)
        best = values[best_run] if best_run else None
        found.append(Rank(setting, mean, deviation, best, best_run, len(values), lost, pruned))
    return sorted(found, key=lambda r: math.inf if r.mean is None else distance(r.mean))


def ranking_text(ranking: Sequence[Rank], target: str) -> str:
    """A table for a terminal."""
    width = max(len(target), *(len(r.setting) for r in ranking))
    heads = f"{'mean':>11}{'+-':>11}{'best':>11}{'runs':>6}{'lost':>6}{'pruned':>8}"
    lines = [f"{target:{width}}{heads}"]
    for r in ranking:
        cells = "".join(f"{_figure(x):>11}" for x in (r.mean, r.deviation, r.best))
        lines.append(f"{r.setting:{width}}{cells}{r.num:>6}{r.lost:>6}{r.pruned:>8}")
    return "\n".join(lines)


def sweep_page(
    title: str,
    settings: dict[str, list[Curve]],
    ranking: Sequence[Rank],
    target: str,
    searched: Sequence[Searched] = (),
) -> str:
    """The page: the ranking, what was searched, curves with mean and spread over seeds, samples.

    Curves and samples are those of as many of the best settings as there are colours.
    """
    drawn = [r.setting for r in ranking[: len(COLOURS)]]
    colours = dict(zip(drawn, COLOURS))
    heads = ("setting", "mean", "deviation", "best", "runs", "lost", "pruned")
    table = [f"<tr>{''.join(f'<th>{name}</th>' for name in heads)}</tr>"]
    figures = []
    for r in ranking:
        colour = colours.get(r.setting, "none")
        label = f'<i style="background:{colour}"></i>{html.escape(r.setting)}'
        numbers = [_figure(x) for x in (r.mean, r.deviation, r.best)]
        cells = [label, *numbers, str(r.num), str(r.lost), str(r.pruned)]
        table.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        pictures = sorted((r.best_run / "samples").glob("*.png")) if r.best_run else []
        if pictures and r.setting in colours:
            data = base64.b64encode(pictures[-1].read_bytes()).decode()
            words = f"{label}: {_figure(r.best)}, {r.best_run.name if r.best_run else ''}"
            alt = html.escape(f"samples of {r.setting}", quote=True)
            image = f'<img src="data:image/png;base64,{data}" alt="{alt}">'
            figures.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>")
    charts = []
    values = {r.setting: r.mean for r in ranking if r.mean is not None}
    for number in searched:
        points = [(number.values[name], y, name) for name, y in values.items()]
        heading = html.escape(f"{target} over {number.field}")
        charts.append(f"<h2>{heading}</h2>{scatter(points, number.log, colours)}")
    for metric in dict.fromkeys((target, *DRAWN)):
        means = {
            name: population.mean_and_spread([c.rows for c in settings[name]]) for name in drawn
        }
        charts.append(f"<h2>{html.escape(metric)}</h2>{chart(means, metric, colours)}")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style>",
            f"<h1>{html.escape(title)}</h1>",
            f"<p>Ranked by the last <code>{html.escape(target)}</code>: mean and deviation",
            "over seeds. A lost run has no finite numbers any more, and a pruned one was ended",
            f"early. Curves and samples: the best {len(drawn)} settings of {len(ranking)}.</p>",
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
    ticks = [f"{last * i / 4:,.0f}" for i in range(5)]
    parts = _axes([*ticks[:4], f"{ticks[4]} images"], low, span)
    for name, curve in curves.items():
        if not curve:
            continue
        line, above, below = (
            [_place(x / last, (y + side * s - low) / span) for x, y, s in curve]
            for side in (0, 1, -1)
        )
        colour, words = colours[name], f"<title>{html.escape(name)}</title>"
        band = " ".join(above + below[::-1])
        parts.append(f'<polygon points="{band}" fill="{colour}" opacity=".18"/>')
        drawn = f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}"'
        parts.append(f'{drawn} stroke-width="2">{words}</polyline>')
        parts.append(_dot(line[-1], colour, name))
    return _svg(parts)


def scatter(points: list[tuple[float, float, str]], log: bool, colours: dict[str, str]) -> str:
    """An SVG of a metric over a number that was searched: a dot a setting.

    Args:
      points: number, metric, setting.
      log: whether the number's scale is logarithmic.
      colours: by setting; another one's is grey.
    """
    if not points:
        return "<p>No run has it yet.</p>"
    scale, back = (math.log, math.exp) if log else (float, float)
    xs = [scale(x) for x, _, _ in points]
    left, low = min(xs), min(y for _, y, _ in points)
    width, span = (max(xs) - left) or 1.0, (max(y for _, y, _ in points) - low) or 1.0
    parts = _axes([f"{back(left + width * i / 4):.3g}" for i in range(5)], low, span)
    for x, (_, y, name) in zip(xs, points):
        place = _place((x - left) / width, (y - low) / span)
        parts.append(_dot(place, colours.get(name, "#bbb"), name))
    return _svg(parts)


def _axes(ticks: list[str], low: float, span: float) -> list[str]:
    """Five lines with the numbers of the height, and the words under the width."""
    parts = []
    for i, words in enumerate(ticks):
        part = i / (len(ticks) - 1)
        (x1, y), (x2, _) = (_place(side, part).split(",") for side in (0, 1))
        parts.append(f'<line x1="{x1}" y1="{y}" x2="{x2}" y2="{y}" stroke="#ddd"/>')
        number = f"{low + span * part:.3g}"
        parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" dy="4">{number}</text>')
        x = _place(part, 0).split(",")[0]
        anchor = "end" if part == 1 else "middle"
        parts.append(f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="{anchor}">{words}</text>')
    return parts


def _place(across: float, up: float) -> str:
    """Of parts of a chart's width and height, its SVG coordinates."""
    x = LEFT + (WIDTH - LEFT - 10) * across
    return f"{x:.1f},{(HEIGHT - BOTTOM) - (HEIGHT - BOTTOM - 10) * up:.1f}"


def _dot(place: str, colour: str, name: str) -> str:
    x, y = place.split(",")
    title = f"<title>{html.escape(name)}</title>"
    return f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}">{title}</circle>'


def _svg(parts: list[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"

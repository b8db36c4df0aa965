"""Which setting of a sweep is the best: a ranking for a terminal, and the sweep's page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import charts
import pages
import population
import runs

DRAWN = ("train/d_loss", "train/g_loss")  # a sweep's curves beside the target's


class Curve(NamedTuple):
    """A run: its folder, the rows of its metrics.jsonl, whether a search has ended it early.

    `failed` is why its setting gives no figure, whatever its rows are; empty where it does.
    `unfinished`: it has steps to go.
    """

    workdir: Path
    rows: list[dict[str, Any]]
    pruned: bool = False
    failed: str = ""
    unfinished: bool = False


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
      unfinished: how many have steps to go, with a figure or without.
      failed: why the setting, or one that is the same, gives no figure.
    """

    setting: str
    mean: float | None
    deviation: float | None
    best: float | None
    best_run: Path | None
    num: int
    lost: int
    pruned: int
    unfinished: int
    failed: str = ""


def rank(
    settings: dict[str, list[Curve]], target: str, distance: Callable[[float], float]
) -> list[Rank]:
    """The settings, the best mean first; those with a lost or an unfinished run after the others.

    Args:
      settings: the runs by setting.
      target: a metric's name; a lost run has none, and one whose last evaluation lacks it.
      distance: falls as the target gets better.
    """
    found = []
    for setting, curves in settings.items():
        values, lost, pruned, unfinished = {}, 0, 0, 0
        for curve in curves:
            if curve.failed:
                continue
            if curve.rows and population.is_lost(curve.rows[-1]):
                lost += 1
                continue
            if curve.pruned:
                pruned += 1
                continue
            unfinished += curve.unfinished
            value = last_value(curve.rows, target)
            if value is not None:
                values[curve.workdir] = value
        mean = statistics.fmean(values.values()) if values else None
        deviation = statistics.stdev(values.values()) if len(values) > 1 else None
        best_run = min(values, key=lambda run: distance(values[run]), default=None)
        best = values[best_run] if best_run else None
        failed = next((curve.failed for curve in curves if curve.failed), "")
        counts = len(values), lost, pruned, unfinished
        found.append(Rank(setting, mean, deviation, best, best_run, *counts, failed))

    def order(r: Rank) -> tuple[bool, bool, float]:
        away = math.inf if r.mean is None else distance(r.mean)
        return r.mean is None, r.lost + r.unfinished > 0, away

    return sorted(found, key=order)


def last_value(rows: Sequence[dict[str, Any]], target: str) -> float | None:
    """A run's figure; of a score that of the last evaluation, which may have none."""
    if target.startswith("eval/"):
        return last_evaluation(rows).get(target)
    return next((row[target] for row in reversed(rows) if row.get(target) is not None), None)


def last_evaluation(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last row with scores; empty where there is none."""
    return next((row for row in reversed(rows) if "eval/num_samples" in row), {})


def ranking_text(ranking: Sequence[Rank], target: str) -> str:
    """A table for a terminal, below what it is to be taken for."""
    width = max(len(target), *(len(r.setting) for r in ranking))
    heads = (
        f"{'mean':>11}{'+-':>11}{'best':>11}{'runs':>6}{'lost':>6}{'pruned':>8}{'unfinished':>12}"
    )
    lines = [f"{target:{width}}{heads}"]
    for r in ranking:
        cells = "".join(f"{_figure(x):>11}" for x in (r.mean, r.deviation, r.best))
        reason = f"  failed: {r.failed}" if r.failed else ""
        counts = f"{r.num:>6}{r.lost:>6}{r.pruned:>8}{r.unfinished:>12}"
        lines.append(f"{r.setting:{width}}{cells}{counts}{reason}")
    return "\n".join([*_caution(target), *lines])


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
    drawn = [r.setting for r in ranking[: len(charts.COLOURS)]]
    colours = dict(zip(drawn, charts.COLOURS))
    lines, figures = [], []
    for r in ranking:
        colour = colours.get(r.setting, "none")
        reason = f" (failed: {r.failed})" if r.failed else ""
        label = f'<i style="background:{colour}"></i>{pages.text(r.setting + reason)}'
        numbers = [_figure(x) for x in (r.mean, r.deviation, r.best)]
        counts = [str(count) for count in (r.num, r.lost, r.pruned, r.unfinished)]
        lines.append([label, *numbers, *counts])
        pictures = runs.sample_paths(r.best_run) if r.best_run else {}
        if pictures and r.best_run and r.setting in colours:
            image = pages.image(list(pictures.values())[-1], f"samples of {r.setting}")
            words = f"{label}: {_figure(r.best)}, {pages.text(r.best_run.name)}"
            figures.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>")
    drawings = []
    values = {r.setting: r.mean for r in ranking if r.mean is not None}
    for number in searched:
        points = [(number.values[name], y, name) for name, y in values.items()]
        chart = charts.scatter(points, number.log, colours, (number.field, target))
        drawings.append(f"<h2>{pages.text(f'{target} over {number.field}')}</h2>{chart}")
    means = {name: population.mean_and_spread([c.rows for c in settings[name]]) for name in drawn}
    for metric in dict.fromkeys((target, *DRAWN)):
        curves = {name: charts.points(rows, metric) for name, rows in means.items()}
        chart = charts.chart(curves, colours, metric, log=True)
        drawings.append(f"<h2>{pages.text(metric)}</h2>{chart}")
    heads = ("setting", "mean", "deviation", "best", "runs", "lost", "pruned", "unfinished")
    body = [
        *(f"<p><strong>{pages.text(words)}</strong></p>" for words in _caution(target)),
        f"<p>Ranked by the last <code>{pages.text(target)}</code>: mean and deviation",
        "over seeds. A lost run has no finite numbers any more, a pruned one was ended early, an",
        "unfinished one has steps to go, and a setting that failed gave no figure. Settings with a",
        "lost or an unfinished run come after those without.",
        f"Curves and samples: the best {len(drawn)} settings of {len(ranking)}.</p>",
        pages.table(heads, lines),
        *drawings,
        "<h2>The last samples of each setting's best run</h2>",
        f'<div class="charts">{"".join(figures)}</div>',
    ]
    return pages.document(title, body)


def _caution(target: str) -> list[str]:
    """A line where what ranks is no score."""
    words = (
        f"Ranked by {target}, no score, which says little of quality: "
        "--target=eval/METRIC ranks by one, with --config.eval_every=N"
    )
    return [] if target.startswith("eval/") else [words]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"

"""What has become of a sweep's runs: sweep.csv, sweep.html and the ranking on the screen."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import population
import ranking
import runs
import scores
import search
import settings

ENDED = ("done", "lost")  # no step is to be trained


class Outcome(NamedTuple):
    """What has become of a run: a line of the table.

    Its state is "not begun", "running", "done" or "lost"; of a search's run whose trial is still
    running, was pruned or has failed it is the trial's: "running", "pruned" or "failed".
    """

    setting: dict[str, str]
    seed: int
    workdir: Path
    state: str
    rows: list[dict[str, Any]]
    reason: str = ""  # why it has failed


def of_run(run: settings.Run) -> Outcome:
    """What its folder says."""
    rows = runs.read_metrics(run.workdir)
    state = "running" if rows else "not begun"
    if rows and population.is_lost(rows[-1]):
        state = "lost"
    elif rows and rows[-1]["step"] >= run.config.num_steps:
        state = "done"
    return Outcome(run.setting, run.config.seed, run.workdir, state, rows)


def of_study(sweep: settings.Sweep, study: search.Study) -> list[Outcome]:
    """Of all runs that the study knows of; of those of other machines the last row alone."""
    outcomes = []
    for found in study.found():
        folder = sweep.workdir / settings.folder_name(found.slot, found.setting)
        for seed in settings.seeds_of(sweep.base, sweep.seeds, found.draw):
            place = folder / f"seed_{seed}"
            rows = runs.read_metrics(place)
            told = found.rows.get(seed)
            if told and (not rows or rows[-1]["step"] < told["step"]):
                rows = [told]
            lost = not found.reason and rows and population.is_lost(rows[-1])
            state = "lost" if lost else found.state
            outcomes.append(Outcome(found.setting, seed, place, state, rows, found.reason))
    return outcomes


def ranked(sweep: settings.Sweep, outcomes: Sequence[Outcome]) -> list[ranking.Rank]:
    """The sweep's settings, the best first."""
    distance = functools.partial(scores.distance_from_best, sweep.target)
    return ranking.rank(curves_of(outcomes), sweep.target, distance)


def curves_of(outcomes: Sequence[Outcome]) -> dict[str, list[ranking.Curve]]:
    """By setting."""
    curves: dict[str, list[ranking.Curve]] = {}
    for outcome in outcomes:
        pruned = outcome.state == "pruned"
        unfinished = outcome.state in ("running", "not begun")
        curve = ranking.Curve(outcome.workdir, outcome.rows, pruned, outcome.reason, unfinished)
        curves.setdefault(settings.name_of(outcome.setting), []).append(curve)
    return curves


def write(sweep: settings.Sweep, outcomes: Sequence[Outcome], aloud: bool = False) -> None:
    """sweep.csv and sweep.html, of what there is so far; the ranking on the screen, too."""
    if not outcomes:
        return
    lines = [table_row(sweep.workdir, outcome) for outcome in outcomes]
    table = io.StringIO()
    columns = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    runs.replace(sweep.workdir / "sweep.csv", table.getvalue())
    ranks = ranked(sweep, outcomes)
    if aloud:
        print(ranking.ranking_text(ranks, sweep.target), flush=True)
    searched = [
        ranking.Searched(
            field,
            values.log,
            {settings.name_of(each.setting): float(each.setting[field]) for each in outcomes},
        )
        for field, values in sweep.space.items()
        if isinstance(values, search.Range)
    ]
    curves = curves_of(outcomes)
    page = ranking.sweep_page(sweep.workdir.name, curves, ranks, sweep.target, searched)
    runs.replace(sweep.workdir / "sweep.html", page)


def table_row(workdir: Path, outcome: Outcome) -> dict[str, Any]:
    """A run's line of sweep.csv, with its last row of metrics.jsonl and its last scores."""
    where = {"run": str(outcome.workdir.relative_to(workdir)), "state": outcome.state}
    reason = {"reason": outcome.reason} if outcome.reason else {}
    return {**where, **outcome.setting, "seed": outcome.seed, **last_figures(outcome), **reason}


def last_figures(outcome: Outcome) -> dict[str, Any]:
    """The last row of metrics.jsonl, with what it lacks from those before, the last scores."""
    scored = ranking.last_evaluation(outcome.rows)
    return {
        name: value
        for row in outcome.rows
        for name, value in row.items()
        if name != "alarms" and (row is scored or not name.startswith("eval/"))
    }

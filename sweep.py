"""Trains a grid of settings with several seeds each, and says which is best.

    python sweep.py --config=configs/mnist.py --grid=config.loss=hinge,non_saturating \\
        --grid=config.penalties.r1=0.1,1,10 --seeds=4 --workdir=runs/losses

Every setting and seed is a run as train.py would make it, in a folder of its own. Settings that
differ in numbers alone share one compiled program, and on a GPU or TPU train in it together. The
same command goes on where it has stopped. sweep.csv has a line a run, sweep.html the curves, the
ranking and samples.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags
from ml_collections import ConfigDict

import checks
import cli
import population
import report
import runs
import scores
import train

GRID = flags.DEFINE_multi_string("grid", [], "config.FIELD=VALUE,VALUE,...; several times.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each setting, from config.seed on.", 1)
TARGET = flags.DEFINE_string("target", None, "The metric that ranks; without it the best_metric.")
MANY = 100  # runs; more, nobody trains by mistake
YES = flags.DEFINE_bool("yes", False, f"Train more than {MANY} runs.")

NOT_OF_A_GRID = {"seed": "--seeds=N", "population": "--seeds=N", "recipe": "--config=FILE:RECIPE"}
UNUSUAL = r"[^\w.=,+-]"  # in a folder's name
# What data and scores depend on.
DATA_FIELDS = (
    "dataset",
    "data_dir",
    "resolution",
    "conditional",
    "eval_samples",
    "eval_features",
    "inception_weights",
)


class Run(NamedTuple):
    """A setting, by its fields and their values as on the command line, and one seed."""

    setting: dict[str, str]
    config: ConfigDict
    workdir: Path
    prepared: train.Prepared


def main(argv: list[str]) -> None:
    del argv
    base = flags.FLAGS.config
    if train.INIT_FROM.value or train.DESCRIBE.value or train.PROFILE.value:
        raise app.UsageError("--init_from, --describe and --profile are for train.py")
    workdir = Path(os.path.expanduser(cli.WORKDIR.value or train.default_workdir(base, "sweep")))
    grid = read_grid(GRID.value)
    num = SEEDS.value
    for values in grid.values():
        num *= len(values)
    if num > MANY and not YES.value:
        raise app.UsageError(f"{num:,} runs are more than {MANY}: --yes trains them all the same")
    members = make_runs(base, grid, SEEDS.value, workdir)
    target = choose_target(members[0], TARGET.value)
    remember(workdir, base, grid, SEEDS.value)
    signals = cli.remember_signals()
    groups: dict[Any, list[Run]] = {}
    for run in members:
        key = population.structure(run.prepared.gan, run.config)
        groups.setdefault(key, []).append(run)
    print(f"{len(members)} runs of {len(groups)} compiled program(s) in {workdir}", flush=True)
    for i, group in enumerate(groups.values()):
        train.train_members(
            [run.config for run in group],
            [run.workdir for run in group],
            workdir / f"group_{i}",
            stop=lambda: bool(signals),
            together=train.TOGETHER.value,
            max_members=train.MAX_MEMBERS.value,
            prepared=group[0].prepared,
        )
        write(workdir, members, target)
    if signals:
        raise SystemExit(128 + signals[0])


def read_grid(words: Sequence[str]) -> dict[str, list[str]]:
    """Fields and their values of words such as config.loss=hinge,non_saturating.

    Raises:
      app.UsageError: a word is no such, or a field or value is there twice.
    """
    grid: dict[str, list[str]] = {}
    for word in words:
        match = re.fullmatch(r"config\.([\w.]+)=(.+)", word)
        if not match:
            raise app.UsageError(f"--grid={word}: write config.FIELD=VALUE,VALUE")
        field, values = match[1], re.split(r",(?![^()]*\))", match[2])  # (64,32) is one value
        if field in NOT_OF_A_GRID:
            raise app.UsageError(f"--grid={word}: for that there is {NOT_OF_A_GRID[field]}")
        if field in grid or len(set(values)) < len(values) or "" in values:
            raise app.UsageError(f"--grid={word}: a field or a value is there twice, or empty")
        grid[field] = values
    return grid


def make_runs(base: ConfigDict, grid: dict[str, list[str]], seeds: int, workdir: Path) -> list[Run]:
    """All runs, everything in them checked.

    Raises:
      app.UsageError: one of them is impossible.
    """
    known: dict[tuple, train.Prepared] = {}
    page, overridden = cli.load_page(), cli.overrides()
    found = []
    for i, values in enumerate(itertools.product(*grid.values())):
        setting = dict(zip(grid, values))
        config = base.copy_and_resolve_references()
        cli.with_overrides(config, [f"--config.{k}={v}" for k, v in setting.items()])
        checks.check_values(config)
        checks.check_use(config, page, [*overridden, *grid])
        if config.population > 1 or config.target.metric:
            raise app.UsageError("population and target.metric are not for sweeps: --seeds=N")
        key = tuple(config[field] for field in DATA_FIELDS)
        prepared = known[key] = train.prepare(config, known.get(key))
        name = ",".join(f"{field}={value}" for field, value in setting.items()) or "as_it_is"
        folder = workdir / f"{i:03}-{re.sub(UNUSUAL, '_', name)[:150]}"
        for seed in range(config.seed, config.seed + seeds):
            own = config.copy_and_resolve_references()
            own.seed = seed
            checks.check_values(own)
            found.append(Run(setting, own, folder / f"seed_{seed}", prepared))
    return found


def choose_target(run: Run, name: str | None) -> str:
    """The metric that ranks.

    Raises:
      app.UsageError: it is never written.
    """
    config = run.config.copy_and_resolve_references()
    usual = config.best_metric or scores.best_metric(run.prepared.judge)
    config.target.metric = name or (usual if config.eval_every and usual else "train/g_loss")
    try:
        checks.check_metrics(config, run.prepared.gan, run.prepared.judge)
    except app.UsageError as error:
        raise app.UsageError(str(error).replace("target.metric", "--target")) from error
    return config.target.metric


def remember(workdir: Path, base: ConfigDict, grid: dict[str, list[str]], seeds: int) -> None:
    """Writes down what is swept, or holds it against what has begun there.

    Raises:
      app.UsageError: another sweep has, or the folder cannot be made.
    """
    now: dict[str, Any] = {"config": runs.flatten(base.to_dict()), "grid": grid, "seeds": seeds}
    file = workdir / "sweep.json"
    try:
        if file.exists():
            before = json.loads(file.read_text())
            resumable = {
                k: v for k, v in now["config"].items() if k.split(".")[0] in runs.RESUMABLE
            }
            before["config"] |= resumable
            if before != json.loads(json.dumps(now)):
                raise app.UsageError(f"workdir {workdir} holds another sweep: {file} says which")
        elif workdir.exists() and any(workdir.iterdir()):
            raise app.UsageError(f"workdir {workdir} is not empty, and holds no sweep")
        workdir.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=2) + "\n")
    except OSError as error:
        raise app.UsageError(f"workdir {workdir}: {error.strerror}") from error


def write(workdir: Path, members: Sequence[Run], target: str) -> None:
    """sweep.csv and sweep.html, of what there is so far; the ranking on the screen, too."""
    rows = [table_row(workdir, run) for run in members]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    partial = workdir / "sweep.csv.partial"
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, workdir / "sweep.csv")
    settings: dict[str, list[report.Curve]] = {}
    for run in members:
        name = ", ".join(f"{k}={v}" for k, v in run.setting.items()) or "as it is"
        curve = report.Curve(run.workdir, runs.read_metrics(run.workdir))
        settings.setdefault(name, []).append(curve)
    ranking = report.rank(settings, target, functools.partial(scores.distance_from_best, target))
    print(report.ranking_text(ranking, target), flush=True)
    page = report.sweep_page(workdir.name, settings, ranking, target)
    (workdir / "sweep.html").write_text(page)


def table_row(workdir: Path, run: Run) -> dict[str, Any]:
    """A run's line of sweep.csv, with its last row of metrics.jsonl and its last scores."""
    rows = runs.read_metrics(run.workdir)
    last = {name: value for row in rows for name, value in row.items() if name != "alarms"}
    state = "not begun" if not rows else "running"
    if rows and population.is_lost(rows[-1]):
        state = "lost"
    elif rows and rows[-1]["step"] >= run.config.num_steps:
        state = "done"
    where = {"run": str(run.workdir.relative_to(workdir)), "state": state}
    return {**where, **run.setting, "seed": run.config.seed, **last}


if __name__ == "__main__":
    cli.run(main, takes_config=True)

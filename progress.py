"""Runs on their way: their rows, as they are due, what is kept of them, and words on the screen."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import gan as gans
import hosts
import population
import report
import runs
import scores
import starts
from checkpoints import Checkpoints
from population import Population, State

SHOWN = ("d_loss", "g_loss")  # beside the progress bar


class Clock:
    """Seconds of a run, with those before this start."""

    def __init__(self, before: float):
        self._before = before
        self._start = self._steady = time.perf_counter()
        self._paused = 0.0

    def seconds(self) -> float:
        """Of the run so far."""
        return self._before + self.here()

    def here(self) -> float:
        """Since this start."""
        return time.perf_counter() - self._start

    def compiled(self) -> None:
        """From here on there is nothing to compile."""
        self._steady = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in it is no training."""
        before = time.perf_counter()
        yield
        self._paused += time.perf_counter() - before

    def training(self) -> float:
        """Since all is compiled, without the pauses."""
        return time.perf_counter() - self._steady - self._paused


class Course:
    """What has become of the runs of a program.

    Args:
      training: of `starts.begin`.
      watch: as of `train.train_and_evaluate`, of one run alone.
      log_all: as of `train.train_together`.

    Attributes:
      going: the members whose numbers are finite.
      lost: those that the last call has taken from them.
      reached: whether one has the target's figure.
      ending: whether no further call is wanted.
      shown: words beside the progress bar.
    """

    def __init__(
        self,
        training: starts.Training,
        watch: Callable[[dict[str, Any]], bool],
        log_all: Callable[[list[dict[str, Any]]], None],
    ):
        self._prepared, self._members = training.prepared, training.members
        self._watch, self._log_all = watch, log_all
        [first, *others] = self._members
        self.going = population.going(training.state)
        self.lost: list[int] = []
        self.reached = scores.target_reached(first.config, first.log.last)
        self.shown: dict[str, str] = {}
        stopped = not others and population.is_lost(first.log.last)
        if stopped and hosts.is_first():
            way = "--config.on_nan=rollback goes on from the last checkpoint"
            if tried := starts.tried_rollbacks(first.workdir):
                way += f", with a --config.max_rollbacks above {tried}"
            words = f"{first.workdir} has stopped at numbers that are not finite: {way}"
            tqdm.write(words, file=sys.stderr)
        self.ending = stopped or self.reached or not self.going
        self.ending |= not others and watch(first.log.last)

    @property
    def alone(self) -> bool:
        return len(self._members) == 1

    def look(self, metrics: Mapping[str, jax.Array]) -> None:
        """Finds who is lost, by the metrics of a call, [members] or of one run []."""
        finite = [np.isfinite(np.ravel(x)) for x in metrics.values()]
        self.lost = [i for i in self.going if not all(x[i] for x in finite)]
        self.going = [i for i in self.going if i not in self.lost]
        self.ending |= not self.going

    def score(self, state: State) -> dict[int, dict[str, float]]:
        """The scores of those that go on, for `write`."""
        scored = {}
        for i in self.going:
            average, key = population.member(state, i).average, self._members[i].eval_key
            found = scores.evaluate(self._prepared.judge, self._prepared.gan, average, key)
            scored[i] = json.loads(hosts.tell(json.dumps(found))[0])  # rounding may differ
        return scored

    def write(
        self,
        step: int,
        seconds: float,
        state: State,
        metrics: Mapping[str, jax.Array],
        scored: Mapping[int, dict[str, float]],
    ) -> None:
        """A row of each that goes on, or is lost now; what it says may end them.

        Args:
          step: of the row.
          seconds: of the runs so far.
          state: of this step or a later one: of who is lost it says more.
          metrics: as of `look`; empty: the row has scores alone.
          scored: by member.
        """
        of_members = {f"train/{name}": np.ravel(x) for name, x in metrics.items()}
        rows = {
            i: {name: float(x[i]) for name, x in of_members.items()} | scored.get(i, {})
            for i in sorted(self.going + self.lost)
        }
        if metrics and rows:
            means = {
                name: np.mean([row[f"train/{name}"] for row in rows.values()]) for name in SHOWN
            }
            self.shown = {name: f"{mean:.3f}" for name, mean in means.items()}
        for i in self.lost if hosts.is_first() else []:
            tqdm.write(lost_words(self._members[i], state, i, step, rows[i]), file=sys.stderr)
        for i, row in rows.items():
            if row:
                member = self._members[i]
                write_row(member, step, row, seconds)
                self.reached |= scores.target_reached(member.config, member.log.last)
                self.ending |= self.alone and self._watch(member.log.last)
        self.ending |= self.reached
        self._log_all([self._members[i].log.last for i, row in rows.items() if row])


class CommonLog:
    """metrics.jsonl of a population: the mean and the spread of its members' rows."""

    def __init__(self, workdir: Path):
        self._workdir = workdir
        self._log: runs.Log | None = None

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """That of a step, from the rows of those that have one."""
        self._add([[row] for row in rows])

    def complete(self, workdirs: Sequence[Path]) -> None:
        """All of them, where they are not there already."""
        rows = [runs.read_metrics(place) for place in workdirs]
        if runs.read_metrics(self._workdir) != population.mean_and_spread(rows):
            self.close()
            self._log = runs.Log(self._workdir, -1)
            self._add(rows)

    def close(self) -> None:
        """Nothing is open."""
        if self._log:
            self._log.close()
        self._log = None

    def _add(self, rows: Sequence[Sequence[dict[str, Any]]]) -> None:
        for row in population.mean_and_spread(rows):
            step, images, seconds = (row.pop(name) for name in ("step", "images", "seconds"))
            self._log = self._log or runs.Log(self._workdir, step - 1)  # later ones are to come
            self._log.write(step, images, seconds, row)


def write_row(member: starts.Member, step: int, row: dict[str, float], seconds: float) -> None:
    """A row of metrics.jsonl, its alarms on the screen, too."""
    images = step * member.config.batch_size
    alarms = member.log.write(step, images, seconds, row, scores.alarms)
    for alarm in alarms if hosts.is_first() else []:
        tqdm.write(f"{member.workdir}: step {step:,}: {alarm}", file=sys.stderr)
    if member.best_metric in member.log.last:
        starts.find_best(member)


def lost_words(
    member: starts.Member, state: State, i: int, step: int, row: dict[str, float]
) -> str:
    """What is known of the i-th member, whose numbers are no longer finite."""
    if isinstance(state, Population):
        frozen = int(population.member(state, i).step)
        return f"{member.workdir}: frozen after step {frozen:,}: no finite numbers since"
    figures = ", ".join(x for x, value in row.items() if not math.isfinite(value))
    players = [
        name
        for name in ("generator", "discriminator")
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(getattr(state, name).params))
    ]
    whose = f", and parameters of {' and '.join(players)}" if players else ""
    last = member.log.last
    finite = [f"{name} = {last[name]:.4g}" for name in row if last.get(name) is not None]
    before = f"; at step {last['step']:,} {', '.join(finite)}" if finite else ""
    return f"{member.workdir}: step {step:,}: not finite: {figures}{whose}{before}"


def save_members(training: starts.Training, state: State, chosen: Iterable[int]) -> None:
    """Saves the states of some members in their own folders; a frozen one's is of its own step."""
    for i in chosen:
        state_of_run = population.member(state, i)
        training.members[i].checkpoints.save(int(state_of_run.step), state_of_run)


def keep_lost(folder: Path, step: int, state: gans.GanState) -> None:
    """Saves a state that is not finite apart from those that a run goes on from."""
    with hosts.agreed():
        if hosts.is_first():
            shutil.rmtree(folder / starts.NOT_FINITE, ignore_errors=True)  # of an earlier stop
    checkpoints = Checkpoints(folder / starts.NOT_FINITE)
    checkpoints.save(step, state)
    checkpoints.close()
    if hosts.is_first():
        # For evaluate.py and sample.py.
        shutil.copy(folder / "config.json", folder / starts.NOT_FINITE)
        print(f"Its state is in {folder / starts.NOT_FINITE}, to look at", file=sys.stderr)


def write_page(workdir: Path) -> None:
    """Writes report.html; where it cannot be a line says why, for all else of the run is there."""
    try:
        report.write_run_page(workdir, workdir / "report.html")
    except Exception as error:
        tqdm.write(f"{workdir}: no report.html: {type(error).__name__}: {error}", file=sys.stderr)

"""A search over settings: Optuna proposes them, and any number of workers share its study.

The study is a row of slots, each to be trained once. A trial of it is a worker's attempt at a slot:
`Study.take` and `Study.tell` see to it that no slot is lost where a worker dies, and that none is
told twice. Optuna's heartbeats are not for trials that are asked for and told, so a worker renews a
lease of ours on those it holds.
"""

from __future__ import annotations

import contextlib
import math
import platform
import re
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock
import numpy as np
from absl import app, logging

if TYPE_CHECKING:
    import optuna

DIGITS = 4  # of a number that is proposed: as a person would write it on a command line
ATTEMPTS = 5  # at a database in which other workers make the tables at the same moment
PRUNED_FROM = 5  # trials with a figure at a step: fewer say little of what is usual there
DEATHS = 5  # of workers that had a trial: one may be chance, five are the trial's own doing
Stop = Callable[[], bool]


class Range(NamedTuple):
    """What a number is searched in, both ends included; evenly in its logarithm, or in itself."""

    low: float
    high: float
    log: bool
    whole: bool

    def word(self, number: float) -> str:
        """The number as on a command line."""
        if self.whole:
            return str(int(number))
        return repr(min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high))


Space = dict[str, Range | list[str]]  # by config field; a list is of values to choose from


class Trial(NamedTuple):
    """An attempt at a slot.

    Attributes:
      slot: from 0 on.
      setting: fields and their values as on the command line.
      draw: which of its seeds it takes: 0, or a number of the slot's own where another slot has
        the same setting.
      asked: Optuna's own.
    """

    slot: int
    setting: dict[str, str]
    draw: int
    asked: optuna.Trial


class Found(NamedTuple):
    """What the study knows of a slot that has begun.

    Attributes:
      state: running, done, pruned or failed.
      rows: the last figures of metrics.jsonl by the seed of their run.
      reason: why it has failed; empty of another.
    """

    slot: int
    setting: dict[str, str]
    draw: int
    state: str
    rows: dict[int, dict[str, Any]]
    reason: str = ""


def read_range(text: str, kind: type) -> Range | list[str]:
    """The values of log:LO:HI, LO:HI, or VALUE,VALUE,....

    Args:
      kind: the field's type; of an int the numbers are whole.
    Raises:
      app.UsageError: they are none.
    """
    match = re.fullmatch(r"(log:)?([^:]+):([^:]+)", text)
    if not match or kind is str:  # which may have a colon
        values = split_values(text)
        if len(values) < 2:
            raise app.UsageError(f"{text!r}: write log:LO:HI, LO:HI or VALUE,VALUE")
        return values
    number = int if kind is int else float
    try:
        low, high = number(match[2]), number(match[3])
    except ValueError as error:
        words = "whole numbers" if kind is int else "numbers"
        raise app.UsageError(f"{text!r}: LO and HI are {words}") from error
    if not -math.inf < low < high < math.inf:
        raise app.UsageError(f"{text!r}: LO is to be less than HI")
    if match[1] and low <= 0:
        raise app.UsageError(f"{text!r}: a logarithm needs LO above 0")
    return Range(low, high, bool(match[1]), kind is int)


def split_values(text: str) -> list[str]:
    """VALUE,VALUE,... apart; what is in parentheses, such as (64,32), is one value.

    Raises:
      app.UsageError: one is empty, or there twice.
    """
    values = re.split(r",(?![^()]*\))", text)
    if len(set(values)) < len(values) or "" in values:
        raise app.UsageError(f"{text!r}: a value is there twice, or empty")
    return values


def sqlite_url(file: Path) -> str:
    """That of a database's file; what has a meaning to SQLAlchemy or Optuna is quoted."""
    path = str(file.absolute())
    return "sqlite:///" + re.sub(r"[%?{}]", lambda match: urllib.parse.quote(match[0]), path)


def storage_file(place: str) -> Path:
    """The file of a storage: SQLite's, or a journal."""
    database = place.partition("sqlite:///")[2].partition("?")[0]
    return Path(urllib.parse.unquote(database) or place)


def open_storage(place: str) -> optuna.storages.BaseStorage:
    """Where studies are: a database's URL, or the path of a journal file.

    Raises:
      app.UsageError: it cannot be reached.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise app.UsageError("a search needs Optuna: pip install optuna") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    attempt = 0
    while True:
        try:
            if "://" in place:
                settings: dict[str, Any] = {"pool_pre_ping": True}  # a connection may be cut
                return optuna.storages.RDBStorage(place, engine_kwargs=settings)
            return optuna.storages.JournalStorage(JournalFileBackend(place))
        except ImportError as error:
            driver = getattr(error.__context__, "name", None) or "the database's driver"
            raise app.UsageError(f"storage needs {driver}, which is missing") from error
        except Exception as error:  # SQLAlchemy's, the driver's, the system's
            attempt += 1
            if attempt == ATTEMPTS or "://" not in place:
                reason = str(error).partition("\n")[0]
                raise app.UsageError(f"storage cannot be opened: {reason}") from error
            time.sleep(0.2 * attempt)


def no_answer(error: BaseException) -> OSError:
    """What a worker says of Optuna's StorageInternalError."""
    reason = str(error.__cause__ or error).partition("\n")[0]
    return OSError(f"the storage of the search does not answer: {reason}")


class Study:
    """A search that this worker takes part in; a context, at whose end nothing is held any more.

    Raises:
      app.UsageError: the study is another search's.
      OSError: the storage does not answer any more.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        swept: dict[str, Any],
        space: Space,
        begin_with: Sequence[dict[str, str]],
        num: int,
        seed: int,
        lease: float,
        patience: int,
        workdir: Path,
        differences: Callable[[Any, Any], Sequence[str]],
    ):
        """Joins the study, or makes it; nothing is written elsewhere before the context begins.

        Args:
          storage: of `open_storage`.
          swept: all that two workers of one study have to agree on, as JSON has it.
          space: what is searched in.
          begin_with: values of the first slots; what they leave out is proposed.
          num: of slots.
          seed: of the proposals; a slot's depend on it, and on what has been told before.
          lease: seconds without a sign after which a worker elsewhere is dead.
          patience: steps of a trial before which it is not compared with others.
          workdir: the sweep's folder, whose name is the study's; of workers that share it on one
            machine, only those are dead whose process is.
          differences: why what the study's first worker gave for `swept` is another search.
        """
        import optuna

        name = workdir.name
        self._optuna, self._space, self._seed, self._lease = optuna, space, seed, lease
        self._states = optuna.trial.TrialState
        self._num = num
        pruner = optuna.pruners.MedianPruner(n_warmup_steps=patience, n_min_trials=PRUNED_FROM)
        try:
            self._study = optuna.create_study(
                storage=storage, study_name=name, pruner=pruner, load_if_exists=True
            )
            if "sweep" not in self._study.user_attrs:
                self._study.set_user_attr("sweep", swept)
            others = self._study.user_attrs["sweep"]
        except optuna.exceptions.StorageInternalError as error:
            raise no_answer(error) from error
        if changed := differences(others, swept):
            raise app.UsageError(
                f"study {name} of the storage is another search: {', '.join(changed)}. Choose "
                "another --workdir"
            )
        self._begin_with = begin_with
        self._folder = workdir / "workers"
        self._worker = f"{platform.node()}-{uuid.uuid4().hex[:12]}"
        self._lock = filelock.FileLock(self._folder / self._worker)
        self._taking = filelock.FileLock(self._folder / "taking")  # SQLite cannot lock a row
        self._held: dict[int, optuna.Trial] = {}
        self._postponed: list[list[Trial]] = []
        self._marks: dict[int, tuple[Any, float]] = {}  # of others' trials, and since when
        self._closing = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Study:
        self._folder.mkdir(exist_ok=True)
        self._lock.acquire()
        self._renewing.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        self._closing.set()
        self._renewing.join(timeout=5)
        if isinstance(error, app.UsageError):  # of a command, not the doing of its trials
            for number in list(self._held):
                self._give_back(number)
        self._lock.release()
        if not self._held:
            with contextlib.suppress(OSError):
                (self._folder / self._worker).unlink()
        if isinstance(error, self._optuna.exceptions.StorageInternalError):
            raise no_answer(error) from error

    def take(self, num: int, stop: Stop) -> list[Trial]:
        """Up to `num` slots to train; waits where others hold all that are left.

        What others, or this one, have begun comes before what nobody has, and what was postponed
        last. One whose last attempt this is comes alone: what is trained beside it would die with
        it. An earlier start may have begun more slots than are wanted now.

        Returns:
          None at all where as many slots as are wanted are done, or where `stop` has said so.
        """
        taken: list[Trial] = []
        waiting = False
        while len(taken) < num and not stop():
            with self._taking:
                trials = self._trials()
                self._queue_again(trials)
                if len(self._finished(trials)) + len(taken) >= self._num:
                    break
                if self._fill_queue(trials):
                    if trial := self._claim():
                        taken.append(trial)
                        if trial.asked.user_attrs.get("deaths", 0) == DEATHS - 1:
                            for other in taken[:-1]:
                                self.give_back(other)
                            return [trial]
                    continue
            if taken:
                return taken
            if self._postponed:
                self._pause(stop)
                taken = self._postponed.pop(0)
                break
            if not waiting:
                print("Waiting for the trials of other workers", flush=True)
                waiting = True
            time.sleep(min(1.0, self._lease / 4))
        if taken and not stop():
            return taken
        for trial in sum(self._postponed, taken):
            self.give_back(trial)
        self._postponed = []
        return []

    def postpone(self, trials: Sequence[Trial]) -> None:
        """Keeps trials of one program, of which another process holds a folder.

        `take` gives them, and no other beside them, where there is nothing else.
        """
        if trials:
            self._postponed.append(list(trials))

    def _pause(self, stop: Stop) -> None:
        """A quarter of a lease, or until `stop` says so."""
        end = time.monotonic() + self._lease / 4
        while not stop() and (left := end - time.monotonic()) > 0:
            time.sleep(min(1.0, left))

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """Notes the target on the way; whether the trial is worse than the median of the others.

        Args:
          step: of the trial, all its runs one after the other.
          value: the less the better.
        """
        try:
            trial.asked.report(value, step)
        except self._optuna.exceptions.UpdateFinishedTrialError:
            return True  # taken up by another
        return trial.asked.should_prune()

    def fail(self, trial: Trial, reason: str) -> None:
        """Ends a trial that gives no figure: it counts as the worst there is."""
        with contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            trial.asked.set_user_attr("failed", reason)
        if self.tell(trial, math.inf, {}):
            print(f"Trial {trial.slot} failed: {reason}", flush=True)

    def tell(self, trial: Trial, value: float | None, rows: dict[int, dict[str, Any]]) -> bool:
        """Ends a trial.

        Args:
          value: the less the better, infinite of a failure; None: the trial was pruned.
          rows: as of `Found`.
        Returns:
          Whether it counts: False where this worker was thought dead, and another has its slot.
        """
        try:
            trial.asked.set_user_attr("rows", {str(seed): row for seed, row in rows.items()})
            if value is None:
                self._study.tell(trial.asked, state=self._states.PRUNED)
            else:
                self._study.tell(trial.asked, value)
        except (ValueError, self._optuna.exceptions.UpdateFinishedTrialError):
            return False
        finally:
            self._held.pop(trial.asked.number, None)
        return True

    def give_back(self, trial: Trial) -> None:
        """Queues a trial again that this worker will not end."""
        self._give_back(trial.asked.number)

    def _give_back(self, number: int) -> None:
        self._queue(number)
        self._fail(number)
        self._held.pop(number, None)

    def found(self) -> list[Found]:
        """What there is of every slot that has begun, in their order; some wait to go on."""
        names = {
            self._states.WAITING: "running",
            self._states.RUNNING: "running",
            self._states.COMPLETE: "done",
            self._states.PRUNED: "pruned",
        }
        by_slot = {}
        for trial in self._trials():
            slot = trial.user_attrs.get("slot")
            done = trial.state in (self._states.COMPLETE, self._states.PRUNED)
            begun = trial.state != self._states.WAITING or "retry_of" in trial.user_attrs
            values = _values(trial)
            whole = set(values) >= set(self._space)
            if (
                slot is not None
                and trial.state in names
                and begun
                and whole
                and (done or slot not in by_slot)
            ):
                rows = trial.user_attrs.get("rows", {})
                reason = trial.user_attrs.get("failed", "")
                by_slot[slot] = Found(
                    slot,
                    self._words(values),
                    trial.user_attrs.get("draw", 0),
                    "failed" if reason else names[trial.state],
                    {int(seed): row for seed, row in rows.items()},
                    reason,
                )
        return [by_slot[slot] for slot in sorted(by_slot)]

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _finished(self, trials: Sequence[optuna.trial.FrozenTrial]) -> set[int]:
        """The slots that are done."""
        done = self._states.COMPLETE, self._states.PRUNED
        slots = (trial.user_attrs.get("slot") for trial in trials if trial.state in done)
        return {slot for slot in slots if slot is not None}

    def _fill_queue(self, trials: Sequence[optuna.trial.FrozenTrial]) -> bool:
        """Queues the next slot where no trial waits; whether there is one to be claimed."""
        if any(trial.state == self._states.WAITING for trial in self._trials()):
            return True
        known = {trial.user_attrs.get("slot") for trial in trials}
        fresh = next((slot for slot in range(self._num) if slot not in known), None)
        if fresh is None:
            return False
        values = self._begin_with[fresh] if fresh < len(self._begin_with) else {}
        self._study.enqueue_trial(values, user_attrs={"slot": fresh})
        return True

    def _claim(self) -> Trial | None:
        """A trial from the queue, with a setting; None if another was quicker, or it has failed."""
        asked = self._study.ask()
        trials = self._trials()
        slot = asked.user_attrs.get("slot")
        if slot is None or not self._is_needed(asked, trials):
            self._fail(asked.number)
            return None
        asked.set_user_attr("worker", self._worker)
        self._held[asked.number] = asked
        seed = np.random.SeedSequence([self._seed, slot]).generate_state(1)[0]
        self._study.sampler = self._optuna.samplers.TPESampler(seed=int(seed))
        for field, values in self._space.items():
            if isinstance(values, list):
                asked.suggest_categorical(field, values)
            elif values.whole:
                asked.suggest_int(field, int(values.low), int(values.high), log=values.log)
            else:
                asked.suggest_float(field, values.low, values.high, log=values.log)
        setting = self._words(asked.params)
        draw = asked.user_attrs.get("draw")
        if draw is None:  # not an attempt that has come so far
            # Of two workers that look at the same moment one at least sees the other's setting.
            slots = {
                trial.user_attrs["slot"]
                for trial in self._trials()
                if "slot" in trial.user_attrs
                and set(trial.params) >= set(self._space)
                and self._words(trial.params) == setting
            }
            draw = slot + 1 if slots - {slot} else 0
            asked.set_user_attr("draw", draw)
        trial = Trial(slot, setting, draw, asked)
        if asked.user_attrs.get("deaths", 0) >= DEATHS:
            self.fail(trial, f"its worker died {DEATHS} times")
            return None
        return trial

    def _is_needed(self, asked: optuna.Trial, trials: list[optuna.trial.FrozenTrial]) -> bool:
        """Whether a trial from the queue is the one that its slot waits for.

        Two workers may have queued the same; the first counts. The one whose worker seemed dead
        ends here, unless it has been told in the meantime.
        """
        if self._comes_twice(trials[asked.number], trials):
            return False
        before = asked.user_attrs.get("retry_of")
        if before is not None:
            self._fail(before)
        return asked.user_attrs["slot"] not in self._finished(self._trials())

    def _comes_twice(
        self, trial: optuna.trial.FrozenTrial, trials: Sequence[optuna.trial.FrozenTrial]
    ) -> bool:
        """Whether an earlier trial is the same attempt at the same slot."""
        mine = [trial.user_attrs.get(name) for name in ("slot", "retry_of")]
        return any(
            [before.user_attrs.get(name) for name in ("slot", "retry_of")] == mine
            for before in trials[: trial.number]
        )

    def _fail(self, number: int) -> None:
        """Ends a trial without a value, if it has not ended."""
        errors = ValueError, self._optuna.exceptions.UpdateFinishedTrialError
        with contextlib.suppress(*errors):
            self._study.tell(number, state=self._states.FAIL)

    def _queue(self, number: int, **changed: int) -> None:
        """A trial again, with the setting it has, or what its queue had said of that."""
        trial = self._trials()[number]
        kept = {k: x for k, x in trial.user_attrs.items() if k in ("slot", "draw", "deaths")}
        attributes = {**kept, **changed, "retry_of": number}
        self._study.enqueue_trial(_values(trial), user_attrs=attributes)

    def _queue_again(self, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        """The trials of workers that have died, those that are queued already left alone."""
        queued = {trial.user_attrs.get("retry_of") for trial in trials}
        for trial in trials:
            if trial.state != self._states.RUNNING or "slot" not in trial.user_attrs:
                continue
            ours = trial.number in self._held
            if ours or trial.number in queued or not self._is_dead(trial):
                continue
            if self._comes_twice(trial, trials):  # its worker had been about to see that
                self._fail(trial.number)
                continue
            deaths = trial.user_attrs.get("deaths", 0) + 1
            if deaths < DEATHS:
                print(f"Trial {trial.user_attrs['slot']}: its worker died; taken up again")
            self._queue(trial.number, deaths=deaths)

    def _is_dead(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether a trial's worker is: its process, if of this machine and folder, or its mark."""
        worker = trial.user_attrs.get("worker", "")
        place = self._folder / worker
        if worker.startswith(f"{platform.node()}-") and place.exists():
            try:
                with filelock.FileLock(place).acquire(timeout=0):
                    return True
            except filelock.Timeout:
                return False
        mark, now = trial.user_attrs.get("mark"), time.monotonic()
        known, since = self._marks.setdefault(trial.number, (mark, now))
        if known != mark:
            self._marks[trial.number] = mark, now
            return False
        return now - since > self._lease  # by our clock alone: those of machines differ

    def _renew(self) -> None:
        """Marks the trials that are held, four times a lease."""
        mark = 0
        while not self._closing.wait(self._lease / 4):
            mark += 1
            for trial in list(self._held.values()):
                try:
                    trial.set_user_attr("mark", mark)
                except self._optuna.exceptions.UpdateFinishedTrialError:
                    self._held.pop(trial.number, None)  # taken up by another
                except Exception as error:  # a storage that does not answer may do so again
                    logging.warning("search: no lease was renewed: %s", error)

    def _words(self, params: dict[str, Any]) -> dict[str, str]:
        """A trial's setting as on the command line."""
        setting = {}
        for field, values in self._space.items():
            value = params[field]
            setting[field] = value if isinstance(values, list) else values.word(value)
        return setting


def _values(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """The setting that it has, or, as far as it has not been asked for, what its queue says."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}

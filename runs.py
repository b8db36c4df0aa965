"""A run's folder: config.json, env.json, metrics.jsonl, TensorBoard events, samples/, checkpoints/.

Nothing here is written before `create`, which training calls once everything has been checked.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import jax
import numpy as np
from absl import app

import pictures
from checkpoints import Checkpoints
from configs import default

if TYPE_CHECKING:
    from ml_collections import ConfigDict

# What a resumed run may change: how long it goes on and on what, how often it reports, what it does
# about numbers that are not finite, and where a machine has data, or a file that its hash checks.
RESUMABLE = (
    "num_steps",
    "target",
    "devices",
    "shard_state",
    "stream",
    "stream_workers",
    "log_every",
    "sample_every",
    "eval_every",
    "checkpoint_every",
    "checkpoints_kept",
    "on_nan",
    "max_rollbacks",
    "data_dir",
    "inception_weights",
)


SHOWN = 10  # runs of a folder in a line
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no mistake of the user's


def check(workdir: Path, config: ConfigDict, init_from: Path | None = None) -> bool:
    """Whether `workdir` holds a run to be resumed with this config (False: it can become one).

    Raises:
      app.UsageError: it is a file, cannot be written, is damaged, or holds a run of another config
        or with weights of another run than `init_from`.
    """
    try:
        _check_writable(workdir)
        if not (workdir / "config.json").exists():
            if (workdir / "sweep.json").exists():
                raise app.UsageError(f"workdir {workdir} holds a sweep: choose another --workdir")
            if remains := [x for x in ("checkpoints", "metrics.jsonl") if (workdir / x).exists()]:
                raise app.UsageError(
                    f"workdir {workdir} has {' and '.join(remains)} but no config.json: no run "
                    "that could be resumed. Choose another --workdir"
                )
            return False
    except OSError as error:
        raise app.UsageError(f"workdir {workdir}: {error.strerror}") from error
    old, new = completed(flatten(read_config(workdir))), flatten(config.to_dict())
    changed = [
        f"{field} ({old.get(field)} there, {new.get(field)} now)"
        for field in sorted(old | new)
        if field.split(".")[0] not in RESUMABLE and old.get(field) != new.get(field)
        if field != "steps_per_call" or new[field] is not None  # None: as it is there
    ]
    if changed:
        raise app.UsageError(
            f"workdir {workdir} holds a run with another config: {', '.join(changed)}. "
            "Resume it with its own, or choose another --workdir"
        )
    donor = first_weights(workdir)
    if init_from and read_starts(workdir) and init_from.resolve() != (donor and donor.resolve()):
        raise app.UsageError(
            f"init_from is for a new run, and workdir {workdir} holds one that began with "
            f"{f'the weights of {donor}' if donor else 'weights of its own'}"
        )
    return True


def _check_writable(workdir: Path) -> None:
    """Raises app.UsageError where a file is in the way, or rights are missing."""
    existing = workdir
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    places = [existing]
    if existing == workdir:
        folders = [workdir / name for name in ("samples", "checkpoints")]
        places += [folder for folder in folders if os.path.lexists(folder)]
    log = workdir / "metrics.jsonl"
    if os.path.lexists(log) and not log.is_file():
        raise app.UsageError(f"workdir {workdir}: {log} is no file")
    for place in places:
        if not place.is_dir():
            raise app.UsageError(f"workdir {workdir}: {place} is no folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise app.UsageError(f"workdir {workdir}: {place} is not writable")


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of the run in `workdir`.

    Raises:
      app.UsageError: there is no run.
    """
    if not (workdir / "config.json").exists():
        _check_one(workdir)
    try:
        config = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise app.UsageError(f"{workdir} holds no run: config.json: {error}") from error
    if not isinstance(config, dict):
        raise app.UsageError(f"{workdir} holds no run: config.json is no config")
    return config


def _check_one(workdir: Path) -> None:
    """Raises app.UsageError where the runs of a population, a setting or a sweep are below."""
    below = sorted(workdir.glob("seed_*/config.json"))
    below = below or sorted(workdir.glob("*/seed_*/config.json"))
    if below:
        names = ", ".join(str(path.parent) for path in below[:SHOWN])
        more = f" and {len(below) - SHOWN} more" if len(below) > SHOWN else ""
        raise app.UsageError(f"{workdir} holds several runs: choose one of {names}{more}")


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one of dotted names, lists for tuples: as JSON has them."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A config by dotted names, with the fields that an older revision lacks as by default."""
    return flatten(default.get_config().to_dict()) | config


def create(
    workdir: Path,
    config: ConfigDict,
    resuming: bool,
    dataset: dict[str, Any] | None = None,
    init_from: Path | None = None,
) -> IO:
    """Makes the folder, and writes down the config and, one entry a start, the environment.

    Args:
      dataset: what env.json is to say of the data set.
      init_from: the run whose weights it begins with; of one that is resumed `first_weights` knows.
    Returns:
      A file whose closing, or the end of the process, lets another process train in the folder.
    Raises:
      app.UsageError: that cannot be done.
      OSError: the disk is full.
      InUse: another process trains there.
    """
    starts = []
    try:
        (workdir / "samples").mkdir(parents=True, exist_ok=True)
        lock = _lock(workdir / "env.json")
        if resuming:
            starts, init_from = read_starts(workdir), first_weights(workdir) or init_from
        elif (workdir / "config.json").exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), "config.json")
        replace(workdir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")
        lock.seek(0)
        lock.truncate()
        donor = str(init_from.resolve()) if init_from else None
        start = {**environment(), "dataset": dataset or {}, "init_from": donor}
        start["earlier_starts"] = starts
        lock.write(json.dumps(start, indent=2) + "\n")
        lock.flush()
    except OSError as error:
        if error.errno in DISK_IS_FULL:
            raise
        raise app.UsageError(f"workdir {workdir}: {error.strerror}: {error.filename}") from error
    return lock


def check_free(workdir: Path) -> None:
    """No other process trains in the folder.

    Raises:
      InUse: one does.
    """
    if (workdir / "env.json").exists():
        _lock(workdir / "env.json").close()


class InUse(app.UsageError):
    """Another process trains in the folder."""


def _lock(path: Path) -> IO:
    """The file, opened and held by this process alone (where the system has flock)."""
    file = path.open("a+")
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"workdir {path.parent}: another process trains there") from error
    return file


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """The environments of the starts so far, the oldest first; empty where they cannot be read."""
    try:
        latest = json.loads((workdir / "env.json").read_text())
        return [*latest.pop("earlier_starts", []), latest]
    except (OSError, ValueError, AttributeError):
        return []


def first_weights(workdir: Path) -> Path | None:
    """The run whose weights the one in `workdir` began with, if it did not draw its own."""
    donors = [start.get("init_from") for start in read_starts(workdir)[-1:]]
    return Path(donors[0]) if donors and donors[0] else None


def environment() -> dict[str, Any]:
    """What a result depends on besides the config."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
    return {
        "command": [re.sub(r"(://[^:/@]*:)[^@]*@", r"\1***@", word) for word in sys.argv],
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


class Rows:
    """The rows of one run, going on after `step`; later ones, left by an interruption, are dropped.

    Attributes:
      rows: all rows that are kept.
      last: the last of them; of a new run step 0, images 0 and seconds 0.
      notes: alarms of the next row, beside those it gives reason for.
    """

    def __init__(self, workdir: Path, step: int, notes: Sequence[str] = ()):
        self.rows = [row for row in read_metrics(workdir) if row["step"] <= step]
        first: dict[str, Any] = {"step": 0, "images": 0, "seconds": 0.0}
        self.last = self.rows[-1] if self.rows else first
        self.notes = list(notes)

    def write(
        self,
        step: int,
        images: int,
        seconds: float,
        metrics: dict[str, float],
        judge: Callable[[list[dict[str, Any]]], list[str]] = lambda rows: [],
    ) -> list[str]:
        """One more. NaN and infinity are null in it, as JSON has neither.

        Args:
          judge: what in the rows, this the last, is reason for an alarm, in words.
        Returns:
          The alarms, which are in the row, too.
        """
        finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        row: dict[str, Any] = {"step": step, "images": images, "seconds": round(seconds, 3)}
        row |= finite
        before, self.last = self.last, row
        self.rows.append(row)
        alarms, self.notes = [*self.notes, *judge(self.rows)], []
        if alarms:
            row["alarms"] = alarms
        self._keep(before, list(metrics))
        return alarms

    def _keep(self, before: dict[str, Any], names: list[str]) -> None:
        """The last row elsewhere, with its metrics' names and the row before: nowhere."""

    def picture(self, step: int, examples: jax.Array, real: np.ndarray) -> None:
        """None: rows are all there is."""

    def close(self) -> None:
        """Nothing is open."""


class Log(Rows):
    """Rows that go into metrics.jsonl and TensorBoard's events, and pictures of samples."""

    def __init__(self, workdir: Path, step: int, notes: Sequence[str] = ()):
        # Not its SummaryWriter: where that one's thread has died, of a disk that was full for a
        # moment, its queue fills up, and training waits for ever.
        with _not_importing("torch"):  # which it does for a name alone, in more than a second
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2

        super().__init__(workdir, step, notes)
        path = workdir / "metrics.jsonl"
        replace(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._going = False
        self._workdir = workdir
        self._file = path.open("a")
        self._summary, self._event = summary, event_pb2.Event
        self._events = event_file_writer.EventsWriter(str(workdir / "events"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._show(step + 1, session_log=start)  # what is shown of later steps is not of this run
        self._drawer = ThreadPoolExecutor(1)
        self._drawn: Future | None = None

    def _keep(self, before: dict[str, Any], names: list[str]) -> None:
        """In metrics.jsonl and TensorBoard."""
        row, step = self.last, self.last["step"]
        if "alarms" in row:
            self._show(step, self._summary.text("alarms", "\n\n".join(row["alarms"])))
        with _naming(self._file.name):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        shown = {name: row[name] for name in names if row[name] is not None}
        if self._going:  # the time before the first row compiled the step
            seconds = max(row["seconds"] - before["seconds"], 1e-9)
            shown["images_per_second"] = (row["images"] - before["images"]) / seconds
        for name, value in shown.items():
            self._show(step, self._summary.scalar(name, value))
        with _naming("TensorBoard's events"):
            self._events.flush()
        self._going = True

    def picture(self, step: int, examples: jax.Array, real: np.ndarray) -> None:
        """Writes samples/step_....png, and shows it in TensorBoard, while training goes on.

        Args:
          examples, real: as of `pictures.draw`.
        Raises:
          OSError: the one before could not be written; of the last one `close` raises it.
        """
        self._wait()
        self._drawn = self._drawer.submit(self._draw, step, examples, real)

    def close(self) -> None:
        """Waits for what is being drawn."""
        with _naming("TensorBoard's events"), contextlib.ExitStack() as last_to_first:
            last_to_first.callback(self._events.close)
            last_to_first.enter_context(self._file)
            last_to_first.callback(self._drawer.shutdown)
            self._wait()

    def _wait(self) -> None:
        if self._drawn:
            self._drawn.result()

    def _draw(self, step: int, examples: jax.Array, real: np.ndarray) -> None:
        picture = pictures.draw(np.asarray(examples), real)
        path = sample_path(self._workdir, step)
        partial = path.with_suffix(".partial")
        picture.save(partial, "PNG")
        os.replace(partial, path)
        pixels = np.asarray(picture.convert("RGB"))
        self._show(step, self._summary.image("samples", pixels, dataformats="HWC"))

    def _show(self, step: int, summary: Any = None, **event: Any) -> None:
        """In TensorBoard."""
        written = self._event(wall_time=time.time(), step=step, summary=summary, **event)
        self._events.write_event(written)


@contextlib.contextmanager
def _not_importing(name: str) -> Iterator[None]:
    """A package that is there seems not to be, for what is imported meanwhile."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _naming(file: str) -> Iterator[None]:
    """Says which file could not be written, where the error does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or file
        raise


def sample_path(workdir: Path, step: int) -> Path:
    return workdir / "samples" / f"step_{step:08d}.png"


def sample_paths(workdir: Path) -> dict[int, Path]:
    """The pictures there are, by their steps, the first one first."""
    paths = sorted((workdir / "samples").glob("step_*.png"))
    steps = (path.stem.removeprefix("step_") for path in paths)
    return {int(step): path for step, path in zip(steps, paths) if step.isdigit()}


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, but for one that a kill has cut off, or that is damaged.

    Raises:
      OSError: it cannot be read.
    """
    path = workdir / "metrics.jsonl"
    if not os.path.lexists(path):
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
            if {"step", "images", "seconds"} <= set(row):
                rows.append(row)
        except (ValueError, TypeError):
            continue
    return rows


def read_networks(workdir: Path) -> dict[str, Any]:
    """The latest checkpoint of a run, as nested dicts of NumPy arrays.

    Raises:
      app.UsageError: there is no run, or no checkpoint in it.
    """
    with open_checkpoints(workdir) as checkpoints:
        return checkpoints.read()


@contextlib.contextmanager
def open_checkpoints(workdir: Path) -> Iterator[Checkpoints]:
    """The checkpoints of a run that is there, of which there is at least one.

    Raises:
      app.UsageError: there is no run, or no checkpoint in it.
    """
    if read_config(workdir).get("population", 1) > 1:
        _check_one(workdir)
    checkpoints = Checkpoints(workdir)
    try:
        if checkpoints.latest_step() is None:
            raise app.UsageError(f"{workdir} has no checkpoint")
        yield checkpoints
    finally:
        checkpoints.close()


def summary(workdir: Path, step: int, images: int, seconds: float, rate: float) -> str:
    """Where everything is, and how fast it came (images a second, without compilation)."""
    lines = [f"Step {step:,}: {images:,} images in {seconds:.1f} s ({rate:,.0f} a second)"]
    for name, place in (
        ("pictures", "samples"),
        ("metrics", "metrics.jsonl"),
        ("checkpoints", "checkpoints"),
        ("page", "report.html"),
    ):
        if (workdir / place).is_file() or any((workdir / place).glob("*")):
            lines.append(f"  {name:12} {workdir / place}")
    lines.append(f"  {'TensorBoard':12} tensorboard --logdir={workdir}")
    return "\n".join(lines)


def replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    # Containers that share a folder may share their processes' numbers, and a path's bytes need not
    # be text.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="replace")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _git_revision() -> str | None:
    """HEAD of this checkout, '-dirty' where tracked files have changed; None outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

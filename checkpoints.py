"""A run's states on disk: each whole, and known to be so, or not there.

Orbax restores flipped bytes without a word. So a checkpoint has a list of its files' SHA-256, which
is written before the folder gets its name: a checkpoint is committed with its list.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, logging

import devices

HASHES = "sha256.json"


class Checkpoints:
    """The states of a run, by step; kept are the latest ones, the latest due, and the best.

    Nothing is made or changed in the folder before the first `save` or `set_aside`.

    Args:
      workdir: the run's folder.
      every: multiples of it are due, of 0 none is; others were saved at a stop, or as the best.
      kept: how many of the latest.

    Attributes:
      best_step: the step whose state is the best so far, if one is; set before it is saved.
      every: as given.

    Raises:
      OSError: a state could not be written; found at the next `save`, or at `close`.
    """

    def __init__(self, workdir: Path, every: int = 0, kept: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._path = (workdir / "checkpoints").absolute()
        self.best_step: int | None = None
        self.every = every
        self._kept = kept
        self._saved: int | None = None
        self._faults: dict[int, str | None] = {}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self,
            create=False,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_hashes),
        )
        self._manager = ocp.CheckpointManager(self._path, options=options)

    def latest_step(self, due: bool = False) -> int | None:
        """The latest that is whole; None where there is none at all.

        Args:
          due: of those alone that were, by the present `every`; of all where none was.
        Raises:
          app.UsageError: there are some, and all are damaged.
        """
        committed = self.committed()
        if due:
            committed = [step for step in committed if self._is_due(step)] or committed
        for step in reversed(committed):
            if not self.fault(step):
                return step
        if committed:
            faults = "; ".join(f"{step}: {self.fault(step)}" for step in committed)
            raise app.UsageError(f"no checkpoint in {self._path} is whole: {faults}")
        return None

    def steps(self) -> list[int]:
        """Those that are whole."""
        return [step for step in self.committed() if not self.fault(step)]

    def fault(self, step: int) -> str | None:
        """What is wrong with a checkpoint, said aloud when it is found; None where it is whole."""
        if step not in self._faults:
            self._faults[step] = fault = self._check(step)
            if fault:
                logging.warning(
                    "skipped a damaged checkpoint: %s: %s", self._path / str(step), fault
                )
        return self._faults[step]

    def set_aside(self, after: int, again: bool = False) -> None:
        """Makes room for the states after a step: damaged ones become damaged_STEP.

        What a kill has left half written is deleted.

        Args:
          again: the run goes other ways from there, and the states that it had are deleted.
        """
        for place in self._path.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(place, ignore_errors=True)
        later = [step for step in self.committed() if step > after]
        for step in later:
            if self.fault(step):
                aside = self._path / f"damaged_{step}"
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(self._path / str(step), aside)
            elif again:
                shutil.rmtree(self._path / str(step))
        if later:
            self._manager.reload()

    def reload(self) -> None:
        """Sees what another process has changed."""
        self._manager.reload()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's question, which of the checkpoints, the oldest first, are not to be deleted."""
        due = [c for c in checkpoints if self._is_due(c.step)]
        latest = [*checkpoints[-self._kept :], *due[-1:]]
        return [c in latest or c.step == self.best_step for c in checkpoints]

    def restore(self, state: Any, step: int | None = None, places: Any = None) -> Any:
        """A step's state, in the structure, types and shapes of `state`.

        Args:
          state: arrays, or what has their shapes and types.
          step: of `steps`; None: the latest.
          places: a sharding, or a tree of them; None: every device in use.

        Raises:
          app.UsageError: it cannot be read.
        """
        abstract = jax.eval_shape(lambda: state)
        places = jax.tree.broadcast(places or devices.everywhere(), abstract)
        abstract = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            abstract,
            places,
        )
        step = self.latest_step() if step is None else step
        try:
            return self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract))
        except Exception as error:  # Orbax and what it is built on have many
            raise self._unreadable(step, error) from error

    def read(self) -> dict[str, Any]:
        """The latest state, whatever it is and whatever devices it comes from: nested dicts.

        Raises:
          app.UsageError: it cannot be read.
        """
        step = self.latest_step()
        place = self._path / str(step) / "default"
        handler = self._ocp.PyTreeCheckpointHandler()
        try:
            tree = handler.metadata(place).tree
            as_numpy = jax.tree.map(lambda _: self._ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return handler.restore(place, args=self._ocp.args.PyTreeRestore(restore_args=as_numpy))
        except Exception as error:  # Orbax and what it is built on have many
            raise self._unreadable(step, error) from error
        finally:
            handler.close()

    def save(self, step: int, state: Any) -> None:
        """Writes in the background; a step that is there already is left alone."""
        if self._manager.latest_step() == step:
            return
        with self._writing():
            self._path.mkdir(parents=True, exist_ok=True)
            self._manager.wait_until_finished()  # whose hashes are those of the step before
            self._saved = step
            self._faults.pop(step, None)
            self._manager.save(step, args=self._ocp.args.StandardSave(state))

    def close(self) -> None:
        """Waits for what is being written."""
        with self._writing():
            self._manager.close()

    def committed(self) -> list[int]:
        """The steps there are, whole or not."""
        if not self._path.is_dir():
            return []
        return sorted(int(place.name) for place in self._path.iterdir() if place.name.isdigit())

    def _is_due(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def _write_hashes(self) -> None:
        """Orbax calls it when all files are there, and the folder is yet to get its name."""
        [folder] = self._path.glob(f"{self._saved}.orbax-checkpoint-tmp*")
        hashes = {str(x.relative_to(folder)): _sha256(x) for x in _files(folder)}
        (folder / HASHES).write_text(json.dumps(hashes, indent=1))

    def _check(self, step: int) -> str | None:
        """What is wrong with a checkpoint's files."""
        folder = self._path / str(step)
        if not (folder / HASHES).exists():
            if any((self._path / str(other) / HASHES).exists() for other in self.committed()):
                return f"{HASHES} is missing"
            logging.warning("not verified, as an older revision wrote no %s: %s", HASHES, folder)
            return None if any(_files(folder)) else "it is empty"
        try:
            hashes = json.loads((folder / HASHES).read_text())
            wrong = [name for name, value in hashes.items() if _sha256(folder / name) != value]
        except (OSError, ValueError, AttributeError) as error:
            return f"{HASHES} cannot be held against its files: {reason(error)}"
        if not hashes:
            return f"{HASHES} is empty"
        return f"{wrong[0]} has changed since it was written" if wrong else None

    def _unreadable(self, step: int | None, error: Exception) -> app.UsageError:
        return app.UsageError(
            f"the checkpoint {self._path / str(step)} cannot be read: {reason(error)}"
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and what it is built on have many
            full = os.strerror(errno.ENOSPC)  # tensorstore says so after all else
            why = full if full in str(error) else reason(error)
            raise OSError(f"no checkpoint could be written in {self._path}: {why}") from error


def reason(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).partition("\n")[0][:200]


def _files(folder: Path) -> list[Path]:
    """Those that hold the state; Orbax goes on writing beside them."""
    return sorted(path for path in (folder / "default").rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

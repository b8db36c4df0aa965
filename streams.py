"""Batches of images that stay on disk: decoded by processes of their own, on the device in time.

The loader is grain. A step's batch is a function of (key, step) here as with images on the device,
so the bits are the same, and a resume needs no state of the loader.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Sharding

import data
import encoded

BUFFERED = 1  # batches of each worker
MOST_WORKERS = 16  # unless more are asked for: a machine's cores may be for many processes


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of all steps, step k's at `batches[k]`; a process that has it decodes them.

    Attributes:
      dataset: whose images are decoded.
      keys: of `data.make_indices`, as their data, uint32: a run's, or of each of a population.
      together: batches have an axis of members.
      shape: of the indices of a run's step.
      balanced: as of `data.make_indices`.
      labelled: a batch has labels, too.
      num_steps: how many there are.
      positions: along the last axis of `shape`, of what this process reads; None: all.
    """

    dataset: data.Dataset
    keys: list[np.ndarray]
    together: bool
    shape: tuple[int, ...]
    balanced: bool
    labelled: bool
    num_steps: int
    positions: np.ndarray | None = None

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Images uint8 [(members), *shape, H, W, C]; labels int32 [(members), *shape]."""
        rows = [indices(step) for indices in self._indices]
        indices = np.stack(rows) if self.together else rows[0]
        if self.positions is not None:
            indices = indices[..., self.positions]
        batch = {"images": self.dataset.images[indices]}
        if self.labelled:
            batch["labels"] = np.asarray(self.dataset.labels)[indices]  # no part of shared memory
        return batch

    def __getstate__(self) -> dict[str, Any]:
        """Another process shuffles itself."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _indices(self) -> list[Callable[[int], np.ndarray]]:
        num, labels = len(self.dataset.images), self.dataset.labels
        labels = np.asarray(labels) if self.balanced else None
        keys = [jax.random.wrap_key_data(jnp.asarray(key)) for key in self.keys]
        return [data.make_indices(key, num, self.shape, labels) for key in keys]


@contextlib.contextmanager
def feed(
    batches: Batches, start: int, workers: int | None, sharding: Sharding
) -> Iterator[Callable[[Sequence[int]], dict[str, jax.Array]]]:
    """In it `read(steps)` has batches on the devices, while processes decode the next ones.

    Args:
      batches: of all steps.
      start: the first step that is asked for.
      workers: how many processes; None: one a core, up to MOST_WORKERS; 0: this one decodes.
      sharding: of what `read` returns.
    Yields:
      `read`: steps one after the other, of which the last may come again, to images and labels
      [(members), steps, ...] as of `Batches`, of all processes. It raises app.UsageError where an
      image is damaged (it is named), ChildProcessError where a worker has died.
    """
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        workers = min(len(affinity(0)), MOST_WORKERS)
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=BUFFERED)
    in_turn = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    batches = dataclasses.replace(batches, dataset=_shared(batches.dataset))
    decoded = grain.MapDataset.source(batches)[start:].to_iter_dataset(in_turn)
    decoded = decoded.mp_prefetch(options, _begin_worker)
    if not flags.FLAGS.is_parsed():  # of a caller without flags: grain reads its own
        flags.FLAGS.mark_as_parsed()
    iterator = iter(decoded)
    others = set(multiprocessing.active_children())
    seen: set[Any] = set()
    latest: tuple[int, dict[str, np.ndarray]] = start - 1, {}
    members = [len(batches.keys)] if batches.together else []

    def following(step: int) -> dict[str, np.ndarray]:
        nonlocal latest
        if step != latest[0]:
            assert step == latest[0] + 1, f"step {step} after {latest[0]}"
            seen.update(set(multiprocessing.active_children()) - others)
            try:
                latest = step, next(iterator)
            except RuntimeError as error:
                raise _of_the_dead(seen, error) from error
        return latest[1]

    def place(rows: np.ndarray) -> jax.Array:
        steps, *own = rows.shape[len(members) :]
        shape = *members, steps, *batches.shape, *own[len(batches.shape) :]
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    def read(steps: Sequence[int]) -> dict[str, jax.Array]:
        rows = [following(step) for step in steps]
        axis = len(members)
        return {name: place(np.stack([row[name] for row in rows], axis)) for name in rows[0]}

    try:
        iterator.get_state()  # makes all workers' iterators, which then start together
        with _apart():
            iterator.start_prefetch()
        seen.update(set(multiprocessing.active_children()) - others)  # while all are alive
        yield read
    finally:
        iterator.close()
        latest, iterator = (start - 1, {}), iter(())
        gc.collect()  # grain's iterators are in cycles, and have shared memory


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Threads and processes that begin in it leave signals to this one, which stops in order."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _shared(dataset: data.Dataset) -> data.Dataset:
    """A data set whose large arrays other processes find in shared memory.

    As a part of what a process is started with they would block the start for ever if it died then.
    """

    def share(array: np.ndarray) -> np.ndarray:
        copy = grain.multiprocessing.SharedMemoryArray(array.shape, array.dtype)
        copy[...] = array
        copy.unlink_on_del()
        return copy

    images, labels = dataset.images, dataset.labels
    if isinstance(images, encoded.Images) and isinstance(images.source, encoded.Files):
        files = images.source
        files = dataclasses.replace(files, names=share(files.names), ends=share(files.ends))
        images = dataclasses.replace(images, source=files)
    return dataset._replace(images=images, labels=None if labels is None else share(labels))


def _begin_worker(index: int, count: int) -> None:
    """In a worker: JAX, which shuffles, takes the CPU alone; it ends where its parent has ended."""
    del index, count
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _of_the_dead(workers: set[Any], error: RuntimeError) -> Exception:
    """The error of workers that have died; the given one if none has."""
    ends = [
        f"process {worker.pid} by {signal.Signals(-worker.exitcode).name}"
        if worker.exitcode < 0
        else f"process {worker.pid} with code {worker.exitcode}"
        for worker in workers
        if worker.exitcode
    ]
    if not ends:
        return error
    return ChildProcessError(f"a worker that decodes images has ended: {', '.join(ends)}")

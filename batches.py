"""The examples of a call's steps: gathered on the device, or streamed to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

import data
import devices
import gan as gans
import starts
import streams
from population import Population


@contextlib.contextmanager
def reading(
    training: starts.Training, any_left: bool
) -> Iterator[Callable[[Sequence[int]], gans.Batch]]:
    """In it is the `read` of `next_steps`; without any step left there is nothing to read.

    A program of its own gathers each device's part of a batch, or the parts are streamed. The
    steps' program is the same, and so are their bits.
    """
    dataset, gan, _ = training.prepared
    members, mesh = training.members, training.mesh
    config, together = members[0].config, isinstance(training.state, Population)
    sharding = devices.along(mesh, axis=0 if together else 3)
    if dataset.streamed and any_left:
        batches = streams.Batches(
            dataset,
            [np.asarray(jax.random.key_data(member.order_key)) for member in members],
            together,
            gans.batch_shape(gan),
            config.balanced,
            bool(gan.num_classes),
            config.num_steps,
            None if together else devices.own(sharding, (1, *gans.batch_shape(gan)), axis=3),
        )
        with streams.feed(
            batches, int(training.state.step), config.stream_workers, sharding
        ) as read:
            yield read
        return
    arrays = {"images": dataset.images} if any_left else {}
    if gan.num_classes and any_left:
        arrays["labels"] = np.asarray(dataset.labels)
    yield gathering(arrays, [member.indices for member in members], mesh, together)


def gathering(
    arrays: dict[str, np.ndarray],
    orders: Sequence[Callable[[Sequence[int]], np.ndarray]],
    mesh: Mesh,
    together: bool = False,
) -> Callable[[Sequence[int]], gans.Batch]:
    """The `read` of `next_steps` of examples in memory.

    Args:
      arrays: images, and labels, of all examples.
      orders: of `data.make_indices`, a run's or of each of a population.
      mesh: of the devices, which all have all examples.
      together: batches have an axis of members, the first.
    """
    examples = devices.copy_to_each(arrays, mesh)
    take = jax.jit(data.take, out_shardings=devices.along(mesh, axis=0 if together else 3))
    threads = ThreadPoolExecutor()  # shuffling leaves Python's lock to others

    def draw(steps: list[int]) -> list[Future]:
        return [threads.submit(indices, steps) for indices in orders]

    following: list[int] = []
    drawn: list[Future] = []

    def gather(steps: Sequence[int]) -> gans.Batch:
        nonlocal following, drawn
        futures = drawn if list(steps) == following else draw(list(steps))
        rows = [future.result() for future in futures]
        following = [step + steps[-1] + 1 for step in range(len(steps))]
        drawn = draw(following)  # an epoch's end is met while the device is at these steps
        return take(examples, np.stack(rows) if together else rows[0])

    return gather

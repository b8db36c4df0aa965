"""The devices that a run uses, and how its arrays lie on them.

They are a mesh of one axis, DATA. Along it a batch is split; the states are on every device, or
their averages and optimisers' moments are split, too. The compiler does the rest, with what the
whole batch gives: means, batch statistics, packs and gradients are those of one device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import app
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

DATA = "data"


def available() -> list[jax.Device]:
    """The devices of this machine; of several processes that train together, those of all."""
    return jax.devices()


def on_cpu() -> contextlib.AbstractContextManager:
    """In it JAX computes on the CPU, if it has that beside a GPU or TPU (see JAX_PLATFORMS)."""
    if jax.default_backend() != "cpu":
        with contextlib.suppress(RuntimeError):
            return jax.default_device(jax.local_devices(backend="cpu")[0])
    return contextlib.nullcontext()


def make_mesh(num: int | None = None) -> Mesh:
    """Of the first `num` devices, or of all.

    Raises:
      app.UsageError: there are not so many.
    """
    there = available()
    if num is not None and num > len(there):
        raise app.UsageError(
            f"devices={num}: there are {len(there)} ({there[0].device_kind}) on this machine"
        )
    if num is not None and jax.process_count() > 1:
        raise app.UsageError(f"devices={num} is for one process: several use all that they have")
    types = (AxisType.Auto,)
    if num in (None, len(there)):
        return jax.make_mesh((len(there),), (DATA,), axis_types=types, devices=there)
    return Mesh(np.array(there[:num]), (DATA,), axis_types=types)  # as they come: of a TPU's, any


@contextlib.contextmanager
def used(mesh: Mesh) -> Iterator[None]:
    """In it `split` splits; not over one device, nor over the devices of a population's members."""
    splits = mesh.size > 1 and DATA in mesh.axis_names
    with jax.set_mesh(mesh) if splits else contextlib.nullcontext():
        yield


def everywhere() -> Sharding:
    """Of arrays that each of the devices in use is to have; without any, the first device."""
    mesh = jax.sharding.get_mesh()
    return SingleDeviceSharding(jax.local_devices()[0]) if mesh.empty else whole(mesh)


def whole(mesh: Mesh) -> NamedSharding:
    """Of arrays that each device of a mesh is to have."""
    return NamedSharding(mesh, PartitionSpec())


def along(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Of arrays that are split along an axis over a mesh."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, *mesh.axis_names))


def place(state: Any, places: Any) -> Any:
    """`jax.device_put`, which takes no PRNG key to a device of another process."""
    if jax.process_count() == 1:
        return jax.device_put(state, places)
    return jax.jit(lambda state: state, out_shardings=places)(state)


def copy_to_each(arrays: Any, mesh: Mesh) -> Any:
    """What every process has, on every device: nothing is compared, nothing sent."""
    place = whole(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(array.shape, place, array.__getitem__), arrays
    )


def own(sharding: Sharding, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Positions along an axis of arrays of that shape which this process's devices have."""
    indices = sharding.addressable_devices_indices_map(shape).values()
    ends = {index[axis].indices(shape[axis])[:2] for index in indices if index is not None}
    return np.concatenate([np.arange(*pair) for pair in sorted(ends)])


def split(arrays: Any, axis: int = 0) -> Any:
    """Arrays along an axis over the devices in use: inside a program."""
    if jax.sharding.get_abstract_mesh().empty:
        return arrays
    spec = PartitionSpec(*[None] * axis, DATA)
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, spec), arrays)


def join(arrays: Any) -> Any:
    """What is split, whole on each device in use, for every process to read: inside a program."""
    if jax.sharding.get_abstract_mesh().empty:
        return arrays
    return jax.lax.with_sharding_constraint(arrays, PartitionSpec())


def lay(state: Any, shard: bool) -> Any:
    """A `GanState` as `specs` has it over the devices in use: inside a program."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return state
    return jax.lax.with_sharding_constraint(state, specs(state, mesh.size, shard))


def shardings(mesh: Mesh, state: Any, shard: bool) -> Any:
    """`specs` for `jax.device_put`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(state, mesh.size, shard))


def specs(state: Any, num: int, shard: bool) -> Any:
    """How a state's leaves lie over `num` devices.

    All are on every device; or, with `shard`, those that only an update's end needs, the moments of
    the optimisers and the average, are split, each along its longest axis that `num` divides.

    Args:
      state: a `GanState` of arrays, or of their shapes.
    Returns:
      A PartitionSpec a leaf.
    Source: Rajbhandari et al. 2020 (ZeRO), stage 1; where communication is needed XLA says.
    """
    found = jax.tree.map(lambda leaf: PartitionSpec(), state)
    if not shard:
        return found

    def along_longest(leaf: Any) -> PartitionSpec:
        axes = [i for i, size in enumerate(leaf.shape) if size and size % num == 0]
        if not axes:
            return PartitionSpec()
        longest = max(axes, key=lambda i: leaf.shape[i])
        return PartitionSpec(*[None] * longest, DATA)

    players = {
        name: getattr(found, name).replace(
            opt_state=jax.tree.map(along_longest, getattr(state, name).opt_state)
        )
        for name in ("generator", "discriminator")
    }
    return found.replace(average=jax.tree.map(along_longest, state.average), **players)


def bytes_on_each(state: Any, num: int, shard: bool) -> int:
    """Bytes of a state on one of `num` devices."""
    shares = jax.tree.map(lambda spec: num if DATA in spec else 1, specs(state, num, shard))
    sizes = jax.tree.map(lambda x, share: x.size * x.dtype.itemsize // share, state, shares)
    return sum(jax.tree.leaves(sizes))

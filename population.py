"""Runs that train together: one program over their stacked states.

A member's bits do not depend on the others, only on how many there are: XLA sums in another order.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gan as gans

if TYPE_CHECKING:
    from ml_collections import ConfigDict

# The axes of members. All take their steps together.
AXES = gans.GanState(
    step=None,  # type: ignore[arg-type]
    key=0,  # type: ignore[arg-type]
    generator=0,  # type: ignore[arg-type]
    discriminator=0,  # type: ignore[arg-type]
    average=0,  # type: ignore[arg-type]
    aux=0,  # type: ignore[arg-type]
    hparams=0,  # type: ignore[arg-type]
)


class Population(struct.PyTreeNode):
    """The members' states.

    Attributes:
      states: every leaf but `step` [N, ...].
      frozen: int32 [N]: the step of the last state of a member whose numbers were no longer finite
        after it; -1 of a member that trains on.
    """

    states: gans.GanState
    frozen: jax.Array

    @property
    def step(self) -> jax.Array:
        return self.states.step


State = gans.GanState | Population  # of one run, or of several


def stack(states: Sequence[gans.GanState]) -> Population:
    """States of the same step and structure as a population."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    frozen = jnp.full(len(states), -1, jnp.int32)
    return Population(stacked.replace(step=jnp.copy(states[0].step)), frozen)


def member(population: State, i: int) -> gans.GanState:
    """The i-th member's state, of a frozen one its last finite one; of a run alone its own."""
    if isinstance(population, gans.GanState):
        return population
    state = jax.tree.map(lambda leaf: leaf[i], population.states.replace(step=population.frozen))
    return state.replace(step=jnp.where(state.step < 0, population.step, state.step))


def going(population: State) -> list[int]:
    """The members that are not frozen; a run alone never is."""
    if isinstance(population, gans.GanState):
        return [0]
    return [i for i, step in enumerate(np.asarray(population.frozen)) if step < 0]


def advance(
    steps: Callable[[gans.GanState, Any], tuple[gans.GanState, dict[str, jax.Array]]],
    population: Population,
    batches: Any,
) -> tuple[Population, dict[str, jax.Array]]:
    """Every member some steps on, but for those that are frozen, or now become so.

    Args:
      steps: of one state and its batches: the state some steps later, and metrics.
      population: of N members.
      batches: arrays [N, steps, ...], as of `train.train_steps`.
    Returns:
      The population, and metrics [N] by name, NaN of those that are frozen.
    """
    old = population.states
    new, metrics = jax.vmap(steps, in_axes=(AXES, 0), out_axes=(AXES, 0))(old, batches)
    finite = jnp.all(jnp.stack([jnp.isfinite(x) for x in metrics.values()]), axis=0)
    going = (population.frozen < 0) & finite

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    states = jax.tree.map(choose, new.replace(step=going), old.replace(step=going))
    frozen = jnp.where(going | (population.frozen >= 0), population.frozen, old.step)
    # A frozen one's next steps may well be finite: they are not taken, and are nobody's figures.
    metrics = {name: jnp.where(going, x, jnp.nan) for name, x in metrics.items()}
    return Population(states.replace(step=new.step), frozen), metrics


def make_mesh(num_members: int, mesh: Mesh) -> Mesh:
    """Of members, over as many devices of a mesh as divide them."""
    num = max(n for n in range(1, mesh.size + 1) if num_members % n == 0)
    return Mesh(mesh.devices.ravel()[:num], ("members",))


def firsts(num_members: int, num_devices: int, on_each: int) -> list[int]:
    """The first members of the programs that members are divided into.

    Every program but the last has as many members on each device, and what does not divide is a
    program of its own, with one on each; programs are of about one size, so that they are few.

    Args:
      num_members, num_devices: there are.
      on_each: at most so many members on a device.
    """
    rows = num_members // num_devices
    programs = -(-rows // on_each)
    found = [rows * i // programs * num_devices for i in range(programs)]
    return found + [rows * num_devices] * bool(num_members % num_devices)


def shardings(mesh: Mesh) -> Population:
    """How a population lies over a mesh of `make_mesh`, for `jax.device_put`."""
    whole, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("members",)))
    states = jax.tree.map(lambda axis: spread, AXES).replace(step=whole)
    return Population(states, spread)  # type: ignore[arg-type]


def gains() -> bool:
    """Whether the platform trains members together faster than one after the other.

    On two cores four perceptrons are as fast either way, and convolutions with a kernel a member
    are nearly half as fast. On a GPU both gain (docs/sweeps.md).
    """
    return jax.default_backend() != "cpu"


def is_lost(row: dict[str, Any]) -> bool:
    """Whether a row of metrics.jsonl has numbers of training that are not finite."""
    return any(value is None and name.startswith("train/") for name, value in row.items())


def structure(gan: gans.Gan, config: ConfigDict) -> tuple[gans.Gan, str]:
    """What runs have in common that can train together; all else are numbers of their states."""
    settings: dict[str, Any] = config.to_dict()
    for name in ("seed", "decay_images", "penalties", *gans.NUMBERS):
        settings.pop(name), settings.pop(f"{name}_end", None)
    settings["optimizer"] = {k: x["name"] for k, x in settings["optimizer"].items()}
    return gan, json.dumps(settings, sort_keys=True)


def member_memory(gan: gans.Gan, config: ConfigDict, steps: int) -> int:
    """Bytes that a step of one member takes beside another, as the compiler counts them.

    Args:
      gan, config: of the member.
      steps: of a call, whose examples lie there, and those of the next one.
    """

    def two() -> Population:
        return stack([gans.init(gan, config, jax.random.key(seed)) for seed in range(2)])

    def step(states: Population, batches: gans.Batch) -> Any:
        return advance(lambda *member: gans.update(gan, *member), states, batches)

    batch = gans.abstract_batch(gan)
    batches = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), batch)
    needed: Any = jax.jit(step).lower(jax.eval_shape(two), batches).compile().memory_analysis()
    sizes = needed.argument_size_in_bytes, needed.output_size_in_bytes, needed.temp_size_in_bytes
    examples = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch))
    return sum(sizes) // 2 + (2 * steps - 1) * examples


def mean_and_spread(runs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of runs' rows of metrics.jsonl a row a step: a figure's mean, and as ..._std its deviation.

    `members` is how many have the step, and finite numbers; a figure that one of them lacks is
    left out. `seconds` are the most that one has taken.
    """
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in (row for rows in runs for row in rows if not is_lost(row)):
        by_step.setdefault(row["step"], []).append(row)
    found = []
    for step, rows in sorted(by_step.items()):
        mean: dict[str, Any] = {"step": step, "images": rows[0]["images"], "members": len(rows)}
        mean["seconds"] = max(row["seconds"] for row in rows)
        for name in rows[0]:
            values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
            if "/" in name and len(values) == len(rows):
                mean[name] = statistics.fmean(values)
                if len(values) > 1 and not name.startswith("eval/floor_"):
                    mean[f"{name}_std"] = statistics.stdev(values)
        found.append(mean)
    return found

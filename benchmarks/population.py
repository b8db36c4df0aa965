"""A population in one program beside the same runs one after the other, in turn.

    python benchmarks/population.py --workload=mlp --members=1 --members=8

Both sides are train.py's own step, `steps_per_call` steps a call, one call ahead. One after
the other they are one run, whose program all members share: its rate is that of a sequence. Both
sides have one device.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags, logging

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import batches  # noqa: E402
import data  # noqa: E402
import devices  # noqa: E402
import gan as gans  # noqa: E402
import population  # noqa: E402
import runtime  # noqa: E402
import starts  # noqa: E402
import train  # noqa: E402
from benchmarks.workloads import ALIKE, make_config  # noqa: E402

WORKLOADS = flags.DEFINE_multi_enum("workload", ["mlp", "dcgan"], ALIKE, "Several times.")
MEMBERS = flags.DEFINE_multi_integer("members", [1, 2, 4, 8, 16, 32, 64], "Several times.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Blocks of steps of each side.")
SECONDS = flags.DEFINE_float("seconds", 2.0, "Of a block, about.")


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)  # TFDS tells where it reads
    runtime.use_eigen()
    runtime.keep_memory()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    print("| workload | members | images/s together | one after the other | ratio | compile, s |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for workload in WORKLOADS.value:
        alone, _ = calls(workload, None)
        for members in MEMBERS.value:
            together, compiling = calls(workload, members)
            pairs = [(rate(together), rate(alone)) for _ in range(ROUNDS.value)]
            ratios = sorted(ours / theirs for ours, theirs in pairs)
            ours, theirs = (statistics.median(side) for side in zip(*pairs))
            words = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            cells = [workload, str(members), f"{ours:,.0f}", f"{theirs:,.0f}", words]
            print(f"| {' | '.join(cells)} | {compiling:.1f} |", flush=True)


Call = Callable[[], tuple[int, dict[str, jax.Array]]]


def calls(workload: str, members: int | None) -> tuple[Call, float]:
    """A function that makes a call: the images that it is of, and its metrics.

    Args:
      workload: of workloads.py.
      members: of a population; None: one run, which is none.
    Returns:
      The function, and the seconds that compiling took.
    """
    config = make_config(workload)
    dataset, gan, _ = starts.prepare(config)
    states = [gans.init(gan, config, jax.random.key(seed)) for seed in range(members or 1)]
    steps = starts.steps_per_call(gan, states[0])
    orders = [
        data.make_indices(state.key, len(dataset.images), gans.batch_shape(gan)) for state in states
    ]
    state: population.State = states[0]
    mesh = devices.make_mesh(1)
    if members:
        mesh = population.make_mesh(members, mesh)
        state = jax.device_put(population.stack(states), population.shardings(mesh))
    read = batches.gathering({"images": dataset.images}, orders, mesh, bool(members))
    step = 0

    def call() -> tuple[int, dict[str, jax.Array]]:
        nonlocal state, step
        state, metrics = train.train_steps(gan, state, read(range(step, step + steps)))
        step += steps
        return steps * config.batch_size * len(orders), metrics

    first, second = (timed(call) for _ in range(2))
    return call, first - second


def timed(call: Call) -> float:
    """Seconds that a call takes, to its end."""
    start = time.perf_counter()
    jax.block_until_ready(call()[1])
    return time.perf_counter() - start


def rate(call: Call) -> float:
    """Images/s in a block of `--seconds`, two calls at least, one ahead, and all to their end."""
    start, images, num = time.perf_counter(), 0, 0
    previous: dict[str, jax.Array] = {}
    while time.perf_counter() - start < SECONDS.value or num < 2:
        more, metrics = call()
        jax.block_until_ready(previous)
        images, num, previous = images + more, num + 1, metrics
    jax.block_until_ready(previous)
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    app.run(main)

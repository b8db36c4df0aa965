"""What `remat` of both networks saves and costs: counted, and measured.

    python benchmarks/remat.py
    python benchmarks/remat.py --workload=r3gan --seconds=1

Counted: operations of a step (those that XLA merges once), and bytes that the pass through each
network keeps for its gradient. Measured, on a CPU where --seconds says how long: a step's time and
the compiled program's temporary memory, which says what the platform's compiler makes of it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))

import data
import gan as gans
import runtime
from benchmarks.workloads import WORKLOADS, flops, make_config

WORKLOAD = flags.DEFINE_multi_enum(
    "workload",
    ["r3gan", "r3gan_cifar10"],
    [name for name in WORKLOADS if name.startswith("r3gan")],
    "Of those whose networks have `remat`, several times.",
)
BATCH = flags.DEFINE_integer("batch", None, "Images; None: as in the workload.")
SECONDS = flags.DEFINE_float(
    "seconds", None, "Of a measurement, about; 0: count alone. Default: 20, on a CPU 0."
)
PLAYERS = ("generator", "discriminator")
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def main(argv: list[str]) -> None:
    del argv
    runtime.use_eigen()  # both as train.py does
    runtime.keep_memory()
    seconds = SECONDS.value
    if seconds is None:
        seconds = 0.0 if jax.default_backend() == "cpu" else 20.0
    kinds = "GFLOP a step | MB kept by G | by D | ms a step | MB of memory"
    print(f"| workload | batch | remat | {kinds} |\n|---|---|---|---|---|---|---|---|")
    for workload in WORKLOAD.value:
        for remat in (False, True):
            config = make_config(workload, BATCH.value)
            config.generator.remat = config.discriminator.remat = remat
            spec = data.Spec(SHAPES[config.dataset], 10 if config.conditional else None)
            gan = gans.make_gan(config, spec)
            lowered, figures = counted(gan, config)
            figures += measured(lowered, gan, config, seconds) if seconds else []
            words = [workload, str(config.batch_size), str(remat)]
            words += [f"{figure:,.4g}" for figure in figures]
            print(f"| {' | '.join(words)} |", flush=True)


def counted(gan: gans.Gan, config: Any) -> tuple[Any, list[float]]:
    """A step, its GFLOP, and MB that each network keeps."""
    state = gans.abstract_state(gan, config)
    lowered = jax.jit(gans.update, static_argnums=0).lower(gan, state, gans.abstract_batch(gan))
    kept = [bytes_kept(gan, state, player) / 1e6 for player in PLAYERS]
    return lowered, [flops(gan, config) / 1e9, *kept]


def measured(lowered: Any, gan: gans.Gan, config: Any, seconds: float) -> list[float]:
    """Milliseconds of a step, and MB of memory beside states and batch."""
    program = lowered.compile()
    state = gans.init(gan, config, jax.random.key(0))
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), gans.abstract_batch(gan))
    jax.block_until_ready(program(state, batch))
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        jax.block_until_ready(program(state, batch))
        steps += 1
    milliseconds = (time.perf_counter() - start) / steps * 1e3
    return [milliseconds, program.memory_analysis().temp_size_in_bytes / 1e6]


def bytes_kept(gan: gans.Gan, state: gans.GanState, name: str) -> int:
    """Of a pass of a batch through a network, for its gradient; the weights are among them."""
    player = getattr(state, name)
    variables = {"params": player.params, **player.variables}
    labels = jnp.zeros(gan.batch_size, jnp.int32) if gan.num_classes else None
    shape = (gan.latent_dim,) if name == "generator" else gan.generator.shape  # type: ignore[attr-defined]

    def pull(inputs: jax.Array, variables: Any) -> Any:
        network = getattr(gan, name)
        return jax.vjp(lambda *x: network.apply(*x, labels, train=False), variables, inputs)[1]

    inputs = jax.ShapeDtypeStruct((gan.batch_size, *shape), jnp.float32)
    kept = jax.tree.leaves(jax.eval_shape(pull, inputs, variables))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)


if __name__ == "__main__":
    app.run(main)

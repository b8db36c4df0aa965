"""What the benchmarks train: pages of configs/, what they change of them, and what is counted."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
from ml_collections import ConfigDict

import cli
import gan as gans
import layers

ADAM = {
    f"optimizer.{player}.{field}": value
    for player in ("generator", "discriminator")
    for field, value in (("name", "adam"), ("learning_rate", 2e-4))
}
AVERAGE = {"ema_half_life": 10_000.0}
R1 = {"discriminator.norm": "none", "penalties.r1": 1.0, **AVERAGE}
PLAIN = {
    "conditional": False,
    **{f"d_augment.{n}": 0.0 for n in ("geometric", "chromatic", "cutout")},
}
CPU_WORKLOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("configs/mnist.py:goodfellow", ADAM | AVERAGE),
    "dcgan": ("configs/mnist.py:dcgan", AVERAGE),
    "dcgan_r1": ("configs/mnist.py:dcgan", R1),
    "dcgan_lazy_r1": ("configs/mnist.py:dcgan", R1 | {"lazy_every": 16}),
    "r3gan": ("configs/mnist.py:r3gan", {}),
}
WORKLOADS = CPU_WORKLOADS | {
    "dcgan_bf16": ("configs/mnist.py:dcgan", AVERAGE | {"precision": "bfloat16"}),
    # The preset's networks, batch and precision; labels and augmentations are left out.
    "r3gan_cifar10": ("configs/cifar10.py:r3gan_cifar10", PLAIN | {"augment.flip": 0.0}),
}

ALIKE = [name for name, (_, own) in WORKLOADS.items() if "lazy_every" not in own]  # in every step


def make_config(workload: str, batch_size: int | None = None) -> ConfigDict:
    """The config of a workload; None: with the batch of its page."""
    page, changes = WORKLOADS[workload]
    config = cli.load_config(page)
    config.update_from_flattened_dict(changes)
    config.batch_size = batch_size or config.batch_size
    return config


def flops(gan: gans.Gan, config: ConfigDict) -> float:
    """Operations of a step, the mean over a lazy period, as XLA counts what it has not merged."""

    def count(lazy: bool) -> float:
        # Compiled for a CPU, which counts all operations, in the convolutions' plain form.
        with (
            jax.default_device(jax.devices("cpu")[0]),
            layers.lowered_for("cuda"),
        ):
            state = gans.abstract_state(gan, config)
            step = jax.jit(lambda *a: gans.update(gan, a[0], a[1], lazy))
            cost: Any = step.lower(state, gans.abstract_batch(gan)).compile().cost_analysis()
        return cost["flops"]

    every = config.lazy_every
    return (count(True) + (every - 1) * count(False)) / every if every > 1 else count(True)


BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}


def summed(text: str) -> tuple[int, int]:
    """How many sums over the devices a compiled program has, and bytes of all their numbers.

    Raises:
      ValueError: there is other communication.
    """
    pattern = r"= (.*?) (all-[\w-]+?|collective-[\w-]+?|reduce-scatter|ragged-[\w-]+?)(?:-start)?\("
    times = total = 0
    for outputs, kind in re.findall(pattern, text):
        if kind != "all-reduce":
            raise ValueError(f"{kind} of {outputs}")
        times += 1
        for name, shape in re.findall(r"(\w+)\[([\d,]*)\]", outputs):
            total += BYTES[name] * math.prod(int(n) for n in shape.split(",") if n)
    return times, total

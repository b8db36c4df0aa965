"""What many devices cost and gain: measured on virtual ones, then calculated for real links.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --measured=mlp --seconds=1
    python benchmarks/scaling.py --counted=dcgan

Measured: images a second of train.py's step on 1, 2, 4 and 8 devices of this machine, or where it
has not so many on parts of its CPU, whose sum stays as fast as it is: what is lost is the price of
being split.
Counted in the compiled program of 8: the numbers that the devices sum. From these, a step's time on
one device and a link's rate, `calculated` has the share of a step that communication takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import data  # noqa: E402
import devices  # noqa: E402
import gan as gans  # noqa: E402
import runtime  # noqa: E402
import starts  # noqa: E402
import train  # noqa: E402
from benchmarks.workloads import ALIKE, make_config, summed  # noqa: E402

MEASURED = flags.DEFINE_multi_enum("measured", None, ALIKE, "Several times.")
COUNTED = flags.DEFINE_multi_enum("counted", None, ["dcgan", "r3gan_cifar10"], "Several times.")
SECONDS = flags.DEFINE_float("seconds", 5.0, "Of a measurement, about.")
NUM = flags.DEFINE_integer("num", None, "Of devices: one row alone, in this process.")
NUMS = (1, 2, 4, 8)


class Place(NamedTuple):
    """Devices and what joins them.

    Attributes:
      num: how many.
      rate: bytes a second that one sends while it receives as many.
      delay: seconds of an all-reduce of nothing.
      source: of the rate.
    """

    num: int
    rate: float
    delay: float
    source: str


PLACES = {
    "8 H200, NVLink": Place(8, 450e9, 20e-6, "900 GB/s both ways: NVIDIA's H200 data sheet"),
    "256 v5e chips, ICI": Place(256, 200e9, 100e-6, "1,600 Gb/s a chip: Google's TPU v5e page"),
}
# Seconds of a step on one H200, and its batch (docs/benchmarks.md): both places are taken to be of
# such devices, as no step was measured on a TPU.
ON_ONE = {"dcgan": (0.642e-3, 128), "r3gan_cifar10": (0.438, 512)}


def main(argv: list[str]) -> None:
    del argv
    runtime.use_eigen()  # both as train.py does
    runtime.keep_memory()
    if NUM.value:
        for workload in MEASURED.value or []:
            print(measured(workload, NUM.value, SECONDS.value))
        for workload in COUNTED.value or []:
            print(json.dumps(summed(make_step(workload, NUM.value)[0].as_text())))
        return
    both = not (MEASURED.value or COUNTED.value)
    if measure := ["mlp", "dcgan"] if both else MEASURED.value or []:
        print("| workload | devices | images a second, measured |\n|---|---|---|")
        for workload in measure:
            for num in NUMS:
                words = f"--measured={workload}", f"--seconds={SECONDS.value}"
                print(f"| {workload} | {num} | {float(apart(*words, num=num)):,.0f} |", flush=True)
    if count := list(ON_ONE) if both else COUNTED.value or []:
        print("\n| workload | sums of a step, counted | MB of them |\n|---|---|---|")
        counts = {}
        for workload in count:
            counts[workload] = times, total = json.loads(apart(f"--counted={workload}", num=8))
            print(f"| {workload} | {times} | {total / 1e6:,.3g} |", flush=True)
        print(f"\n{calculated(counts)}")


def make_step(workload: str, num: int) -> tuple[Any, gans.GanState, gans.Batch]:
    """train.py's compiled step on `num` devices, its state, and a batch."""
    config = make_config(workload)
    dataset, gan, _ = starts.prepare(config)
    mesh = devices.make_mesh(num)
    state = gans.init(gan, config, jax.random.key(0))
    state = jax.device_put(state, devices.shardings(mesh, state, shard=False))
    rows = data.make_indices(state.key, len(dataset.images), gans.batch_shape(gan))(0)[None]
    batches = {"images": dataset.images[rows]}
    if gan.num_classes:
        batches["labels"] = np.asarray(dataset.labels)[rows]
    batches = jax.device_put(batches, devices.along(mesh, axis=3))
    with devices.used(mesh):
        program = train.train_steps.lower(gan, state, batches).compile()
    return program, state, batches


def measured(workload: str, num: int, seconds: float) -> float:
    """Images a second of steps one after the other."""
    program, state, batches = make_step(workload, num)
    batch = make_config(workload).batch_size
    for _ in range(3):
        state, _ = program(state, batches)
    jax.block_until_ready(state)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        state, _ = program(state, batches)
        jax.block_until_ready(state)
        steps += 1
    return steps * batch / (time.perf_counter() - start)


def apart(*words: str, num: int) -> str:
    """The last line of this program in a process that has `num` devices; a CPU is parted."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(num)}
    if jax.local_device_count() < NUMS[-1]:  # a table's rows are of one kind of device
        environment["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run(
        [sys.executable, __file__, f"--num={num}", *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.splitlines()[-1]


def calculated(counts: dict[str, tuple[int, int]]) -> str:
    """A table: how long a step computes and sums at each place, and which batch it needs.

    A device's part of a batch is taken to last as long as so much of the batch of ON_ONE; a ring
    sends 2 (n - 1) / n of the bytes; nothing is taken to overlap.
    """
    lines = ["| workload | devices | batch | ms computing | ms summing | share | batch of 10% |"]
    lines.append("|---|---|---|---|---|---|---|")
    for workload, (times, total) in counts.items():
        seconds, batch = ON_ONE[workload]
        for name, place in PLACES.items():
            sums = 2 * (place.num - 1) / place.num * total / place.rate + times * place.delay
            computing = seconds / place.num
            share = sums / (sums + computing)
            needed = batch * 9 * sums / computing
            figures = f"{computing * 1e3:.3g} | {sums * 1e3:.3g} | {share:.0%} | {needed:,.0f}"
            lines.append(f"| {workload} | {name} | {batch} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)

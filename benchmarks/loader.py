"""What streaming costs: images a second of the loader alone, of the step alone, and of both.

    python benchmarks/loader.py [--json]
    python benchmarks/loader.py --workload=folder --folder=PATH --seconds=20 --workers=4

The loader alone decodes and puts batches on the device; the step alone is given the same batch
again; both together are train.py's loop, of which the share lost is what the step alone does more.
On a CPU the step uses the very cores that decode. Images are a step's batch_size, as train.py
counts; of each d_steps + 1 are decoded. With --files=N it measures starts instead: the first one
of a folder of N images of 32x32, and the second, which has the first one's index.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import cli  # noqa: E402
import data  # noqa: E402
import devices  # noqa: E402
import gan as gans  # noqa: E402
import population  # noqa: E402
import runtime  # noqa: E402
import starts  # noqa: E402
import streams  # noqa: E402
import train  # noqa: E402

PAGES = {
    "mnist": "configs/mnist.py:dcgan",
    "cifar10": "configs/cifar10.py:dcgan",
    "folder": "configs/cifar10.py:dcgan",
}
WORKLOAD = flags.DEFINE_multi_enum("workload", list(PAGES), list(PAGES), "Several times.")
FOLDER = flags.DEFINE_string("folder", None, "Of images; without it 2,000 PNGs of 64x64 are made.")
WORKERS = flags.DEFINE_integer("workers", None, "Processes that decode; without it one a core.")
SECONDS = flags.DEFINE_float("seconds", 20.0, "Of a measurement, about.")
FILES = flags.DEFINE_integer("files", None, "Measure the starts of a folder of so many.")
JSON = flags.DEFINE_bool("json", False, "One JSON object as the last line of stdout.")
NO_REPORTS = ("log_every", "sample_every", "eval_every", "checkpoint_every")


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    runtime.use_eigen()  # both as train.py does
    runtime.keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # nothing is left in the user's
        if FILES.value:
            found: dict[str, Any] = index_times(Path(folder), FILES.value)
            print("\n".join(f"{name}: {seconds:.1f} s" for name, seconds in found.items()))
        else:
            print("| workload | first batch, s | loader | step | both | lost |")
            print("|---|---|---|---|---|---|")
            found = {}
            for workload in WORKLOAD.value:
                found[workload] = row = measured(workload, Path(folder))
                rates = " | ".join(f"{row[name]:,.0f}" for name in ("loader", "step", "both"))
                print(
                    f"| {workload} | {row['start']:.1f} | {rates} | {row['lost']:.0%} |", flush=True
                )
    if JSON.value:
        print(json.dumps(found))


def write_images(folder: Path, num: int, size: int) -> None:
    """PNGs of smooth noise, in folders of 10,000."""
    rng, kinds = np.random.default_rng(0), []
    for _ in range(100):
        noise = Image.fromarray(rng.integers(0, 256, (size // 4, size // 4, 3), np.uint8))
        content = io.BytesIO()
        noise.resize((size, size), Image.Resampling.BICUBIC).save(content, "PNG")
        kinds.append(content.getvalue())
    for i in range(num):
        file = folder / f"{i // 10_000:03}" / f"{i:07}.png"
        if i % 10_000 == 0:
            file.parent.mkdir(parents=True)
        file.write_bytes(kinds[i % len(kinds)])


def index_times(folder: Path, num: int) -> dict[str, float]:
    """Seconds of `data.folder` of so many files, streamed, with and without its index."""
    write_images(folder / "images", num, 32)
    found = {}
    for name in ("first start", "second start"):
        start = time.perf_counter()
        assert len(data.folder(folder / "images", None, stream=True).images) == num
        found[name] = time.perf_counter() - start
    return found


def measured(workload: str, folder: Path) -> dict[str, float]:
    """Seconds until the first batch is there, images a second, and the share lost."""
    config = cli.load_config(PAGES[workload])
    config.update(dict.fromkeys(NO_REPORTS, 0))
    config.stream, config.num_steps = True, 2**31 - 1
    if workload == "folder":
        if not FOLDER.value:
            write_images(folder / "images", 2_000, 64)
        config.dataset = f"folder:{FOLDER.value or folder / 'images'}"
    dataset, gan, _ = starts.prepare(config)
    mesh = devices.make_mesh()
    first = gans.init(gan, config, jax.random.key(0))
    config.steps_per_call = starts.steps_per_call(gan, first)
    state: population.State = jax.device_put(first, devices.shardings(mesh, first, shard=False))
    keys = [np.asarray(jax.random.key_data(first.key))]
    shape, labelled = gans.batch_shape(gan), bool(gan.num_classes)
    batches = streams.Batches(dataset, keys, False, shape, False, labelled, config.num_steps)
    split = jax.sharding.PartitionSpec(None, None, None, devices.DATA)
    sharding = jax.sharding.NamedSharding(mesh, split)
    begun, step = time.perf_counter(), 0
    with devices.used(mesh), streams.feed(batches, 0, WORKERS.value, sharding) as read:
        given = jax.block_until_ready(read(range(config.steps_per_call)))
        start, step = time.perf_counter() - begun, config.steps_per_call

        def load() -> None:
            nonlocal step
            jax.block_until_ready(read(range(step, step + config.steps_per_call)))
            step += config.steps_per_call

        previous: dict[str, jax.Array] = {}

        def update(read: Callable[[Any], gans.Batch]) -> None:
            nonlocal state, previous
            before = previous
            state, previous, _ = train.next_steps(config, gan, state, read, step)
            jax.block_until_ready(before)

        def both() -> None:
            nonlocal step
            update(read)
            step += config.steps_per_call

        per_call = config.steps_per_call * config.batch_size
        rates: dict[str, list[float]] = {"loader": [], "step": [], "both": []}
        update(lambda _: given)  # compiles
        for _ in range(3):  # in turn: other work on the machine meets all of them
            for name, call in (
                ("loader", load),
                ("step", lambda: update(lambda _: given)),
                ("both", both),
            ):
                rates[name].append(per_call / seconds_of(call, SECONDS.value / 3))
    row = {name: float(np.median(found)) for name, found in rates.items()}
    return {"start": start, **row, "lost": 1 - row["both"] / row["step"]}


def seconds_of(call: Callable[[], None], least: float) -> float:
    """Of one of many calls, that take `least` seconds together; the first two do not count."""
    for _ in range(2):
        call()
    start, num = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        call()
        num += 1
    return (time.perf_counter() - start) / num


if __name__ == "__main__":
    app.run(main)

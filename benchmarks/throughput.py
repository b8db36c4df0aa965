"""Twoplayer beside PyTorch: the same networks, batch, precision and update, in turn, in one run.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --part=steps --workload=dcgan --json

Twoplayer's side is train.py's own compiled step; PyTorch's is pytorch_gan.py, eager and compiled.
Both take their images from a data set in memory. Each side is a process of its own; they take
turns, a block of steps each, and every ratio is of two neighbouring blocks. Of the parts, `steps`
compares the update, `batches` how its cost grows with the batch, `start` takes the time from the
command to the first step, and `whole` train.py's wall clock beside its bare steps.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import data  # noqa: E402
import gan as gans  # noqa: E402
import runtime  # noqa: E402
import train  # noqa: E402
from benchmarks.workloads import CPU_WORKLOADS, WORKLOADS, make_config  # noqa: E402

BATCHES = (32, 64, 128, 256, 512, 1024)

CHOSEN = flags.DEFINE_multi_enum("workload", None, list(WORKLOADS), "Several times; default: all.")
PART = flags.DEFINE_multi_enum(
    "part", None, ["steps", "batches", "start", "whole"], "Several times; default: all."
)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Blocks of steps of each side.")
SECONDS = flags.DEFINE_float("seconds", 3.0, "Of a block, about.")
JSON = flags.DEFINE_bool("json", False, "One object, as the last line.")

Steps = Callable[[int], None]  # does so many, to their end


class Report(NamedTuple):
    """What a side says of a block.

    Attributes:
      seconds: of a step.
      memory: bytes, the most that the process (on a GPU: the device) has held so far.
    """

    seconds: float
    memory: int


def main(argv: list[str]) -> None:
    del argv
    on_gpu = jax.default_backend() == "gpu"
    names = CHOSEN.value or list(WORKLOADS if on_gpu else CPU_WORKLOADS)
    found: dict[str, Any] = {"device": device(), "gemm_flops": gemm_rate()}
    for part in PART.value or PARTS:
        measure, words = PARTS[part]
        found[part] = measure(names)
        print(f"\n{words(found)}\n", flush=True)
    if JSON.value:
        print(json.dumps(found))


def twoplayer_steps(config: ConfigDict) -> Steps:
    """What train.py's loop does, without rows, pictures, scores and checkpoints."""
    dataset, gan, _ = train.prepare(config)
    state = gans.init(gan, config, jax.random.key(0))
    examples = {"images": jax.device_put(dataset.images)}
    indices = data.make_indices(state.key, len(dataset.images), gans.batch_shape(gan), None)
    config = config.copy_and_resolve_references()
    config.update(dict.fromkeys(("log_every", "sample_every", "eval_every", "checkpoint_every"), 0))
    config.steps_per_call, config.num_steps = train.steps_per_call(state), 0
    step = 0

    def run(num: int) -> None:
        nonlocal state, step
        metrics: dict[str, jax.Array] = {}
        config.num_steps += num
        while step < config.num_steps:
            previous = metrics
            state, metrics, taken = train.next_steps(config, gan, state, examples, indices, step)
            jax.block_until_ready(previous)
            step += taken
        jax.block_until_ready(state)

    return run


def pytorch_steps(config: ConfigDict, how: str) -> Steps:
    """The same in PyTorch, `how` it runs as in PYTORCH."""
    import torch

    from benchmarks import pytorch_gan

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset, gan, _ = train.prepare(config)
    images = torch.from_numpy(np.moveaxis(dataset.images, -1, 1).copy()).to(device)
    trainer = pytorch_gan.Trainer(config, gan, images.shape[1:], device, **PYTORCH[how])
    step, order = 0, iter(list[torch.Tensor]())

    def batches() -> Iterator[torch.Tensor]:
        for rows in torch.randperm(len(images), device=device).split(config.batch_size):
            if len(rows) == config.batch_size:
                yield trainer.to_float(images[rows])

    def batch() -> torch.Tensor:
        nonlocal order
        if (found := next(order, None)) is None:
            order = batches()
            found = next(order)
        return found

    def run(num: int) -> None:
        nonlocal step
        for _ in range(num):
            trainer.step(step, (batch(), batch()))
            step += 1
        if device == "cuda":
            torch.cuda.synchronize()

    if device == "cpu":  # the faster of PyTorch's own number of threads and one a core
        run(2)
        taken = {}
        for threads in {torch.get_num_threads(), len(os.sched_getaffinity(0))}:
            torch.set_num_threads(threads)
            run(1)
            taken[threads] = timed(functools.partial(run, 3))
        torch.set_num_threads(min(taken, key=taken.__getitem__))
    return run


PYTORCH: dict[str, dict[str, bool]] = {
    "eager": {},
    "compiled": {"compiled": True},
    "compiled, channels last": {"compiled": True, "channels_last": True},
    "compiled, channels last, CUDA graphs": {
        "compiled": True,
        "channels_last": True,
        "graphs": True,
    },
}


def sides() -> list[str]:
    """Twoplayer, and the ways in which PyTorch runs on this device."""
    on_gpu = jax.default_backend() == "gpu"
    return ["twoplayer", *(how for how in PYTORCH if on_gpu or "graphs" not in PYTORCH[how])]


def serve(connection: Connection, side: str, workload: str, batch_size: int | None) -> None:
    """A side's process: for every number of steps received, a Report or what went wrong."""
    try:
        config = make_config(workload, batch_size)
        if side == "twoplayer":
            runtime.keep_memory()  # as train.py does
        run = twoplayer_steps(config) if side == "twoplayer" else pytorch_steps(config, side)
        for num in iter(connection.recv, 0):
            seconds = timed(functools.partial(run, num))
            connection.send(Report(seconds / num, peak_memory(side)))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {str(error).splitlines()[0]}")


def peak_memory(side: str) -> int:
    """Bytes, of this process or of the device that it has used."""
    if jax.default_backend() == "cpu":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if side == "twoplayer":
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    import torch

    return torch.cuda.max_memory_allocated()


def timed(function: Callable[[], None]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Process:
    """A side in a process of its own; `error` says why it has ended."""

    def __init__(self, side: str, workload: str, batch_size: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, side, workload, batch_size), daemon=True
        )
        self.process.start()
        theirs.close()
        self.error = ""

    def run(self, num: int) -> Report | None:
        if self.error:
            return None
        try:
            self.connection.send(num)
            answer = self.connection.recv()
        except (EOFError, BrokenPipeError):
            answer = "the process has ended"
        if isinstance(answer, str):
            self.error = answer
            return None
        return answer

    def close(self) -> None:
        self.process.terminate()
        self.process.join()


def in_turn(workload: str, batch_size: int | None, names: list[str]) -> dict[str, Any]:
    """Blocks of steps of every side, one after the other, `--rounds` times."""
    processes = {name: Process(name, workload, batch_size) for name in names}
    period = make_config(workload).lazy_every
    blocks: dict[str, list[Report]] = {name: [] for name in names}
    lengths = {}
    for name, process in processes.items():  # compiles, then a first look at the speed
        process.run(period)
        first = process.run(period)
        if first:
            lengths[name] = period * max(1, round(SECONDS.value / first.seconds / period))
    for _ in tqdm(range(ROUNDS.value), f"{workload} {batch_size or ''}", disable=None):
        for name, num in lengths.items():
            report = processes[name].run(num)
            if report:
                blocks[name].append(report)
    found: dict[str, Any] = {}
    for name, process in processes.items():
        process.close()
        if len(blocks[name]) < ROUNDS.value:
            found[name] = {"error": process.error}
            continue
        found[name] = {
            "seconds": statistics.median(block.seconds for block in blocks[name]),
            "memory": blocks[name][-1].memory,
            "ratio": spread(
                theirs.seconds / ours.seconds
                for theirs, ours in zip(blocks[name], blocks["twoplayer"])
            ),
        }
    return found


def spread(values: Iterator[float]) -> list[float]:
    """The median, the least and the greatest."""
    ordered = sorted(values)
    return [statistics.median(ordered), ordered[0], ordered[-1]]


def compare_steps(names: list[str]) -> dict[str, Any]:
    """Every workload, all sides in turn, with what its step costs."""
    return {name: in_turn(name, None, sides()) | {"flops": flops(name)} for name in names}


def compare_batches(names: list[str]) -> dict[str, Any]:
    """The first workload with batches of 32 to 1,024, Twoplayer and eager PyTorch."""
    return {
        name: {size: in_turn(name, size, ["twoplayer", "eager"]) for size in BATCHES}
        for name in names[:2]
    }


def flops(workload: str) -> float:
    """Of a step, the mean over a lazy period, as XLA counts the operations that we ask for."""
    config = make_config(workload)
    _, gan, _ = train.prepare(config)
    state = jax.eval_shape(lambda: gans.init(gan, config, jax.random.key(0)))
    batch = gans.abstract_batch(gan)

    def count(lazy: bool) -> float:
        with mock.patch("layers.PATCHES", math.inf):  # of a loop XLA counts one turn
            step = jax.jit(lambda *a: gans.update(gan, a[0], a[1], lazy)).lower(state, batch)
        cost: Any = step.cost_analysis()
        return cost["flops"]

    every = config.lazy_every
    return (count(True) + (every - 1) * count(False)) / every if every > 1 else count(True)


def gemm_rate(size: int = 2048, dtype: Any = jnp.float32) -> float:
    """FLOP/s of the fastest of some square matrix products."""
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    best = min(timed(lambda: jax.block_until_ready(product(matrix, matrix))) for _ in range(10))
    return 2 * size**3 / best


def starts(names: list[str]) -> dict[str, float]:
    """Seconds from the command to the first row, on digits: nothing compiled before, and after."""
    del names
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("cold", "warm"):
            workdir = Path(folder) / kind
            environment = os.environ | {"XDG_CACHE_HOME": folder}
            command = [sys.executable, "train.py", "--config=configs/digits.py"]
            command += [f"--workdir={workdir}", "--config.num_steps=1", "--config.log_every=1"]
            start = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
            )
            rows = workdir / "metrics.jsonl"
            while not (rows.exists() and rows.stat().st_size) and process.poll() is None:
                time.sleep(0.01)
            found[kind] = time.perf_counter() - start
            process.wait()
    return found


def whole(names: list[str]) -> dict[str, Any]:
    """train.py's images/s with its rows, pictures and checkpoints, and those of its bare steps."""
    return {name: whole_run(name) for name in names}


def whole_run(workload: str) -> dict[str, float]:
    """Three runs of train.py of a thousand steps or more, each after a block of bare steps."""
    page, changes = WORKLOADS[workload]
    process = Process("twoplayer", workload)
    process.run(16)
    rates = []
    for _ in range(3):
        first = process.run(16)
        bare = first and process.run(max(16, round(10 / first.seconds)))
        assert bare, process.error
        num = max(1000, round(20 / bare.seconds))
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "train.py", f"--config={page}", f"--workdir={folder}/run"]
            command += [f"--config.{name}={value}" for name, value in changes.items()]
            command += [f"--config.num_steps={num}", "--config.eval_every=0"]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
        first, last = (json.loads(lines[i]) for i in (0, -1))
        rate = (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])
        rates.append((rate, 1 / bare.seconds))
    process.close()
    shares = [ours / bare for ours, bare in rates]
    return {
        "steps_per_second": statistics.median(r for r, _ in rates),
        "share": spread(iter(shares)),
    }


def device() -> str:
    """Its name, and the versions."""
    return (
        f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores, "
        f"jax {jax.__version__}, torch {importlib.metadata.version('torch')}"
    )


def table(titles: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def steps_table(found: dict[str, Any]) -> str:
    rows = []
    for name, by_side in found["steps"].items():
        ours = by_side["twoplayer"]
        rate = by_side["flops"] / ours["seconds"] if "seconds" in ours else math.nan
        for side in sides():
            own = by_side[side]
            if "error" in own:
                rows.append([name, side, own["error"], "", "", ""])
                continue
            share = f"{rate / found['gemm_flops']:.0%}" if side == "twoplayer" else ""
            rows.append(
                [
                    name,
                    side,
                    f"{1000 * own['seconds']:.3g}",
                    "" if side == "twoplayer" else ratio_words(own["ratio"]),
                    f"{own['memory'] / 1e6:,.0f}",
                    f"{by_side['flops'] / 1e9:.3g} GFLOP, {share}" if share else "",
                ]
            )
    titles = ["workload", "side", "ms a step", "times twoplayer's", "MB", "step, share of GEMM"]
    return (
        f"{found['device']}; GEMM {found['gemm_flops'] / 1e9:,.0f} GFLOP/s\n\n{table(titles, rows)}"
    )


def batches_table(found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            str(size),
            *(f"{1e6 * by_side[side]['seconds'] / size:,.0f}" for side in ("twoplayer", "eager")),
            ratio_words(by_side["eager"]["ratio"]),
        ]
        for name, by_size in found["batches"].items()
        for size, by_side in by_size.items()
    ]
    titles = ["workload", "batch", "µs an image, twoplayer", "PyTorch eager", "ratio"]
    return table(titles, rows)


def start_table(found: dict[str, Any]) -> str:
    rows = [[kind, f"{seconds:.1f}"] for kind, seconds in found["start"].items()]
    return table(["start", "seconds to the first row"], rows)


def whole_table(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{own['steps_per_second']:.4g}", ratio_words(own["share"])]
        for name, own in found["whole"].items()
    ]
    return table(["workload", "train.py, steps/s", "of its bare steps"], rows)


def ratio_words(ratio: list[float]) -> str:
    return f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})"


PARTS = {
    "steps": (compare_steps, steps_table),
    "batches": (compare_batches, batches_table),
    "start": (starts, start_table),
    "whole": (whole, whole_table),
}

if __name__ == "__main__":
    app.run(main)

"""Twoplayer beside PyTorch: the same networks, batch, precision and update, in turn, in one run.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --part=steps --workload=dcgan --json

Twoplayer's side is train.py's own compiled step; PyTorch's is pytorch_gan.py, eager and compiled.
Both take their images from a data set in memory. Each side is a process of its own; they take
turns, a block of steps each, and every ratio is of two blocks of a round. Of the parts, `steps`
compares the update, `batches` how its cost grows with the batch, `start` takes the time from the
command to the first step, and `whole` train.py's wall clock beside its bare steps.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import re
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

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from tqdm import tqdm

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
from benchmarks.workloads import CPU_WORKLOADS, WORKLOADS, flops, make_config  # noqa: E402

BATCHES = (32, 64, 128, 256, 512, 1024)

# How PyTorch runs.
PYTORCH: dict[str, dict[str, bool]] = {
    "eager": {},
    "channels last": {"channels_last": True},
    "compiled": {"compiled": True},
    "compiled, channels last": {"compiled": True, "channels_last": True},
    "channels last, CUDA graph": {"channels_last": True, "graphs": True},
    "compiled, channels last, CUDA graph": {
        "compiled": True,
        "channels_last": True,
        "graphs": True,
    },
    "tuned, channels last, CUDA graph": {
        "compiled": True,
        "tuned": True,
        "channels_last": True,
        "graphs": True,
    },
}

CHOSEN = flags.DEFINE_multi_enum("workload", None, list(WORKLOADS), "Several times; default: all.")
PART = flags.DEFINE_multi_enum(
    "part", None, ["steps", "batches", "start", "whole"], "Several times; default: all."
)
SIDES = flags.DEFINE_multi_enum(
    "side", None, list(PYTORCH), "Of PyTorch's, several times; default: all there are."
)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Blocks of steps of each side.")
KEPT = flags.DEFINE_bool("keep_memory", False, "PyTorch's processes keep memory as train.py does.")
SECONDS = flags.DEFINE_float("seconds", 3.0, "Of a block, about.")
APART = flags.DEFINE_bool("apart", False, "Sides one after the other, where memory is for one.")
JSON = flags.DEFINE_bool("json", False, "One object, as the last line.")

# What Python and JAX say of each import's time, without what it imports, and of each compilation.
IMPORT = re.compile(r"import time:\s+(\d+) \|")
COMPILE = re.compile(r"Finished XLA compilation of .* in ([\d.e-]+) sec")

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
    runtime.use_eigen()  # a product's rate is of what our steps have
    # All sides share a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    on_gpu = jax.default_backend() == "gpu"
    found: dict[str, Any] = {"device": device()}
    print(found["device"])
    for part in PART.value or PARTS:
        measure, titles, rows, usual = PARTS[part]
        print(f"\n{line(titles)}\n{line(['---'] * len(titles))}", flush=True)
        found[part] = {}
        for name in CHOSEN.value or usual or (WORKLOADS if on_gpu else CPU_WORKLOADS):
            found[part][name] = measure(name)
            for row in rows(name, found[part][name]):
                print(line(row), flush=True)  # a row is there as soon as it is measured
    if JSON.value:
        print(json.dumps(found))


def twoplayer_steps(config: ConfigDict) -> Steps:
    """What train.py's loop does, without rows, pictures, scores and checkpoints."""
    dataset, gan, _ = starts.prepare(config)
    first = gans.init(gan, config, jax.random.key(0))
    state: population.State = first
    indices = data.make_indices(first.key, len(dataset.images), gans.batch_shape(gan))
    read = batches.gathering({"images": dataset.images}, [indices], devices.make_mesh(1))
    config = config.copy_and_resolve_references()
    config.update(dict.fromkeys(("log_every", "sample_every", "eval_every", "checkpoint_every"), 0))
    config.steps_per_call, config.num_steps = starts.steps_per_call(gan, first), 0
    step = 0

    def run(num: int) -> None:
        nonlocal state, step
        metrics: dict[str, jax.Array] = {}
        config.num_steps += num
        while step < config.num_steps:
            previous = metrics
            state, metrics, taken = train.next_steps(config, gan, state, read, step)
            jax.block_until_ready(previous)
            step += taken
        jax.block_until_ready(state)

    return run


def pytorch_steps(config: ConfigDict, how: str) -> Steps:
    """The same in PyTorch, `how` it runs as in PYTORCH."""
    import torch

    from benchmarks import pytorch_gan

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"  # as ours; an error without
    dataset, gan, _ = starts.prepare(config)
    images = torch.from_numpy(np.moveaxis(dataset.images, -1, 1).copy()).to(device)
    trainer = pytorch_gan.Trainer(config, gan, images.shape[1:], device, **PYTORCH[how])
    size, step = config.batch_size, 0
    order = iter(list[torch.Tensor]())

    def train_step(number: int, rows: torch.Tensor) -> None:
        trainer.step(number, [trainer.to_float(images[r]) for r in rows])

    if PYTORCH[how].get("graphs"):
        train_step = pytorch_gan.Graphs(train_step, config.lazy_every)

    def batches() -> Iterator[torch.Tensor]:
        rows = torch.randperm(len(images), device=device)
        return iter(rows[: len(rows) // (2 * size) * 2 * size].view(-1, 2, size))

    def run(num: int) -> None:
        nonlocal order, step
        for _ in range(num):
            if (rows := next(order, None)) is None:
                order = batches()
                rows = next(order)
            train_step(step, rows)
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


def sides() -> list[str]:
    """Twoplayer, and the ways in which PyTorch runs on this device."""
    on_gpu = jax.default_backend() == "gpu"
    chosen = SIDES.value or [how for how in PYTORCH if on_gpu or "graphs" not in PYTORCH[how]]
    return ["twoplayer", *chosen]


def serve(
    connection: Connection, side: str, workload: str, batch_size: int | None, keep_memory: bool
) -> None:
    """A side's process: for every number of steps received, a Report or what went wrong."""
    try:
        config = make_config(workload, batch_size)
        if side == "twoplayer":
            runtime.use_eigen()  # both as train.py does
        if side == "twoplayer" or keep_memory:
            runtime.keep_memory()
        run = twoplayer_steps(config) if side == "twoplayer" else pytorch_steps(config, side)
        for num in iter(connection.recv, 0):
            seconds = timed(functools.partial(run, num))
            connection.send(Report(seconds / num, peak_memory(side)))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        connection.send(f"{type(error).__name__}: {reason}")


def peak_memory(side: str) -> int:
    """Bytes, of this process or of the device that it has used."""
    if jax.default_backend() == "cpu":
        status = Path("/proc/self/status")
        if status.exists():
            return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
        # Elsewhere what the parent has held counts, too, and on Macs it is in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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
            target=serve, args=(theirs, side, workload, batch_size, KEPT.value), daemon=True
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


def compare(workload: str, batch_size: int | None, names: list[str]) -> dict[str, Any]:
    """Blocks of steps of every side, in turn or with `--apart` each side's at once, last ours.

    A ratio is the median of the rounds, the least and the greatest; apart there are no rounds, and
    it is that of the medians alone. It is empty where our own side has come to no end.
    """
    turns = [[name] for name in reversed(names)] if APART.value else [names]
    blocks: dict[str, list[Report]] = {}
    errors: dict[str, str] = {}
    for turn in turns:
        in_turn(workload, batch_size, turn, blocks, errors)
    return {
        name: {"error": errors[name]}
        if len(blocks[name]) < ROUNDS.value
        else {
            "seconds": statistics.median(block.seconds for block in blocks[name]),
            "memory": blocks[name][-1].memory,
            "ratio": ratio(blocks[name], blocks["twoplayer"]),
        }
        for name in names
    }


def ratio(theirs: list[Report], ours: list[Report]) -> list[float]:
    """Of their seconds and ours, as `compare` has it."""
    if len(ours) < ROUNDS.value:
        return []
    if APART.value:
        medians = (statistics.median(x.seconds for x in side) for side in (theirs, ours))
        return [next(medians) / next(medians)]
    return spread(x.seconds / y.seconds for x, y in zip(theirs, ours))


def in_turn(
    workload: str,
    batch_size: int | None,
    names: list[str],
    blocks: dict[str, list[Report]],
    errors: dict[str, str],
) -> None:
    """Blocks of steps of every side, one after the other, `--rounds` times: into `blocks`."""
    period = make_config(workload).lazy_every
    blocks |= {name: [] for name in names}
    processes, lengths = {}, {}
    for name in names:  # one after the other: compiling, both time what is the fastest on a GPU
        processes[name] = process = Process(name, workload, batch_size)
        if process.run(period):
            lengths[name] = block_length(process, period)
        words = process.error or f"{lengths[name]} steps a block"
        print(f"{workload}, {name}: {words}", file=sys.stderr, flush=True)
    for _ in tqdm(range(ROUNDS.value), f"{workload} {batch_size or ''}", disable=None):
        for name, num in lengths.items():
            report = processes[name].run(num)
            if report:
                blocks[name].append(report)
    for name, process in processes.items():
        process.close()
        errors[name] = process.error
        if blocks[name]:
            milliseconds = 1000 * statistics.median(block.seconds for block in blocks[name])
            print(f"{workload}, {name}: {milliseconds:.4g} ms a step", file=sys.stderr, flush=True)


def block_length(process: Process, period: int) -> int:
    """How many steps take `--seconds`, after blocks in which memory is taken for good."""
    num = period
    for _ in range(3):  # few steps; a block, which compiles what few steps do not need; a block
        report = process.run(num)
        if report is None:
            break
        num = period * max(1, round(SECONDS.value / report.seconds / period))
    return num


def spread(values: Iterator[float]) -> list[float]:
    """The median, the least and the greatest."""
    ordered = sorted(values)
    return [statistics.median(ordered), ordered[0], ordered[-1]]


def compare_steps(name: str) -> dict[str, Any]:
    """All sides in turn, with what a step costs and what the device can do."""
    config = make_config(name)
    return {
        "sides": compare(name, None, sides()),
        "flops": flops(starts.prepare(config)[1], config),
        "gemm_flops": gemm_rate(config.precision),
    }


def compare_batches(name: str) -> dict[str, Any]:
    """Batches of 32 to 1,024, Twoplayer and eager PyTorch."""
    return {str(size): compare(name, size, ["twoplayer", "eager"]) for size in BATCHES}


def gemm_rate(precision: str) -> float:
    """FLOP/s of the fastest of some square matrix products."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (size, size), precision)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    best = min(timed(lambda: jax.block_until_ready(product(matrix, matrix))) for _ in range(10))
    return 2 * size**3 / best


def cold_and_warm(workload: str) -> dict[str, dict[str, float]]:
    """Seconds from the command to the first row: nothing compiled before, and after."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        for name in ("JAX_COMPILATION_CACHE_DIR", "XLA_PYTHON_CLIENT_PREALLOCATE"):  # main's own
            environment.pop(name, None)
        return {
            kind: phases(workload, Path(folder) / kind, environment) for kind in ("cold", "warm")
        }


def phases(workload: str, workdir: Path, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of train.py up to its first row: all, and what they went into.

    Python itself says what its imports take, JAX what XLA does. The data are there when the run's
    config is written, and what is neither until then counts as theirs; `rest` is what is neither
    after that: tracing, a picture, the step.
    """
    start = time.time()
    process = subprocess.Popen(
        command(workload, workdir, num_steps=1, log_every=1),
        cwd=ROOT,
        env=environment | {"PYTHONPROFILEIMPORTTIME": "1", "JAX_LOG_COMPILES": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    log = [(time.time(), line) for line in process.stderr]
    if process.wait():
        raise RuntimeError(log[-1][1])
    written, end = ((workdir / name).stat().st_mtime for name in ("config.json", "metrics.jsonl"))
    found = {"all": end - start, "import": 0.0, "data": written - start, "compile": 0.0}
    found["rest"] = end - written
    for moment, text in log:
        taken = IMPORT.match(text) or COMPILE.search(text)
        if taken and moment <= end:
            kind = "import" if taken.re is IMPORT else "compile"
            seconds = float(taken[1]) * (1e-6 if kind == "import" else 1)
            found[kind] += seconds
            found["data" if moment <= written else "rest"] -= seconds
    return found


def command(workload: str, workdir: Path, **changes: int) -> list[str]:
    """train.py's, of a workload or of a page of configs/."""
    page, own = WORKLOADS.get(workload, (workload, {}))
    fields = [f"--config.{name}={value}" for name, value in (own | changes).items()]
    return [sys.executable, "train.py", f"--config={page}", f"--workdir={workdir}", *fields]


def whole(workload: str) -> dict[str, Any]:
    """Steps/s of train.py with its rows, pictures and checkpoints, and those of its bare steps.

    Of three runs of a thousand steps or more, each after a block of bare ones.
    """
    process = Process("twoplayer", workload)
    length = block_length(process, 1)
    rates = []
    for _ in range(3):
        bare = process.run(length)
        assert bare, process.error
        num = 100 * max(10, round(20 / bare.seconds / 100))  # whole calls: one program
        with tempfile.TemporaryDirectory() as folder:
            words = command(workload, Path(folder) / "run", num_steps=num, eval_every=0)
            subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
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
    torch = importlib.metadata.version("torch") if importlib.util.find_spec("torch") else "none"
    return (
        f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores, "
        f"jax {jax.__version__}, torch {torch}"
    )


def line(cells: list[str]) -> str:
    """Of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def steps_rows(name: str, found: dict[str, Any]) -> Iterator[list[str]]:
    for side, own in found["sides"].items():
        if "error" in own:
            yield [name, side, own["error"], "", "", "", ""]
            continue
        ratio, gflop, gemm = ratio_words(own["ratio"]), "", ""
        if side == "twoplayer":
            share = found["flops"] / own["seconds"] / found["gemm_flops"]
            gemm = f"{share:.0%} of {found['gemm_flops'] / 1e12:.3g}"
            ratio, gflop = "", f"{found['flops'] / 1e9:.3g}"
        milliseconds, memory = f"{1000 * own['seconds']:.3g}", f"{own['memory'] / 1e6:,.0f}"
        yield [name, side, milliseconds, ratio, memory, gflop, gemm]


def batches_rows(name: str, found: dict[str, Any]) -> Iterator[list[str]]:
    for size, by_side in found.items():
        if errors := [own["error"] for own in by_side.values() if "error" in own]:
            yield [name, size, *errors]
            continue
        ours, theirs = (1e6 * by_side[s]["seconds"] / int(size) for s in ("twoplayer", "eager"))
        ratio = ratio_words(by_side["eager"]["ratio"])
        yield [name, size, f"{ours:,.0f}", f"{theirs:,.0f}", ratio]


def starts_rows(name: str, found: dict[str, dict[str, float]]) -> Iterator[list[str]]:
    for kind, seconds in found.items():
        yield [name, kind, *(f"{x:.1f}" for x in seconds.values())]


def whole_rows(name: str, found: dict[str, Any]) -> Iterator[list[str]]:
    yield [name, f"{found['steps_per_second']:.4g}", ratio_words(found["share"])]


def ratio_words(ratio: list[float]) -> str:
    words = [f"{x:.2f}" for x in ratio]
    return f"{words[0]} ({words[1]} to {words[2]})" if len(words) == 3 else "".join(words)


STEPS = ["workload", "side", "ms a step", "times ours", "MB", "GFLOP", "of GEMM's TFLOP/s"]
# Of each: its measurement, the titles and rows of its table, and what it is usually of.
PARTS: dict[str, tuple[Callable, list[str], Callable, list[str]]] = {
    "steps": (compare_steps, STEPS, steps_rows, []),
    "batches": (
        compare_batches,
        ["workload", "batch", "µs an image, twoplayer", "PyTorch eager", "ratio"],
        batches_rows,
        ["mlp", "dcgan"],
    ),
    "start": (
        cold_and_warm,
        ["workload", "start", "seconds to the first row", "import", "data", "compile", "the rest"],
        starts_rows,
        ["configs/digits.py"],
    ),
    "whole": (
        whole,
        ["workload", "train.py, steps/s", "of its bare steps"],
        whole_rows,
        ["mlp", "dcgan"],
    ),
}

if __name__ == "__main__":
    app.run(main)

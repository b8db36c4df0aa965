"""Trains a GAN: `python train.py --config=configs/mnist.py [--workdir=DIR] [--config.FIELD=VALUE]`.

The same --workdir resumes. Press Ctrl-C to stop after the current step; what is done is saved.
Several processes train one run with --distributed, or with --coordinator and its two companions.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until main's own handler: Ctrl-C ends the imports, with no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import functools
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

import checks
import cli
import data
import describe
import devices
import gan as gans
import hosts
import population
import report
import runs
import runtime
import scores
import starts
import streams
from checkpoints import Checkpoints
from population import Population, State

INIT_FROM = flags.DEFINE_string("init_from", None, "A run whose weights a new run starts from.")
DESCRIBE = flags.DEFINE_bool("describe", False, "Say what would be trained, and train nothing.")
PROFILE = flags.DEFINE_string("profile", None, "A folder for a trace of some steps (TensorBoard).")
TOGETHER = flags.DEFINE_bool(
    "together", None, "Runs of a population in one program; without it where the platform gains."
)
MAX_MEMBERS = flags.DEFINE_integer(
    "max_members", None, "Of one program; without it as many as fit into memory.", lower_bound=1
)
MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", None, "Save and stop after so many; the same command goes on.", lower_bound=0
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join a job's other processes, as Slurm, Open MPI, Kubernetes, TPUs say."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first of several processes, each of them told so."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Of one run.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of this one: 0, 1, ...", lower_bound=0)
HOST_TIMEOUT = flags.DEFINE_integer(
    "host_timeout",
    300,
    "Seconds until a silent process is gone, and the others end.",
    lower_bound=1,
)
DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "The same bits on a GPU, too: slower.")

SHOWN = ("d_loss", "g_loss")  # beside the progress bar
PROFILED_CALLS = range(2, 12)  # of a start, whose first one compiles


@functools.partial(jax.jit, static_argnames=("gan", "lazy", "shard"), donate_argnames="state")
def train_steps(
    gan: gans.Gan,
    state: State,
    batches: gans.Batch,
    num: jax.Array | None = None,
    lazy: bool = True,
    shard: bool = False,
) -> tuple[State, dict[str, jax.Array]]:
    """`num` updates on `batches`, arrays [steps_per_call, ...]; the last one's metrics.

    None is all of them: a program of its own, as a GPU waits for a number of steps that it is told.
    With one step a call it is no loop, and `lazy` says whether that step carries the penalties.
    A population's batches are [members, steps_per_call, ...], and its metrics [members].
    `shard` is of the devices in use: see `devices.specs`.
    """

    def steps(state: gans.GanState, batches: Any) -> tuple[gans.GanState, dict]:
        length = len(jax.tree.leaves(batches)[0])

        def read(i: int | jax.Array) -> gans.Batch:
            return devices.split(jax.tree.map(lambda array: array[i], batches), axis=2)

        if length == 1:
            return gans.update(gan, state, read(0), lazy)
        return gans.updates(gan, state, read, length if num is None else num)

    if isinstance(state, Population):
        return population.advance(steps, state, batches)
    state, metrics = steps(state, batches)
    return devices.lay(state, shard), metrics


def next_steps(
    config: ConfigDict,
    gan: gans.Gan,
    state: State,
    read: Callable[[Sequence[int]], gans.Batch],
    step: int,
) -> tuple[State, dict[str, jax.Array], int]:
    """One call: `steps_per_call` steps, or fewer up to the next report.

    Args:
      config, gan, state: as of `train_steps`.
      read: the batches of steps, of which the last may come several times.
      step: the state's.

    Returns:
      The last state (the given one is donated), its metrics, and how many steps were taken.
    """
    reports = (config.log_every, config.sample_every, config.eval_every, config.checkpoint_every)
    ends = [every - step % every for every in reports if every]
    num = min(config.steps_per_call, config.num_steps - step, *ends)
    lazy = (step + num) % config.lazy_every == 0
    length = config.steps_per_call
    batches = read([step + min(i, num - 1) for i in range(length)])
    fewer = num if num < length else None
    lazy_call = lazy or length > 1
    state, metrics = train_steps(gan, state, batches, fewer, lazy_call, config.shard_state)
    carried = {name: metrics[name] for name in metrics if lazy or name not in gan.penalties}
    return state, carried, num


@functools.partial(jax.jit, static_argnames="gan")
def sample(
    gan: gans.Gan, network: gans.Network, latents: jax.Array, labels: jax.Array | None = None
) -> jax.Array:
    """A generator's examples, images as uint8."""
    examples = gans.sample(gan, network, devices.split(latents), labels)
    return devices.join(gans.to_uint8(examples) if examples.ndim == 4 else examples)


def main(argv: list[str]) -> None:
    del argv
    config = flags.FLAGS.config
    if DETERMINISTIC.value:
        runtime.be_deterministic()
    with contextlib.ExitStack() as processes:
        if joining():
            numbers = NUM_PROCESSES.value, PROCESS_ID.value, HOST_TIMEOUT.value
            processes.enter_context(hosts.joined(COORDINATOR.value, *numbers))
        code = run(config)
    sys.exit(code)


def joining() -> bool:
    """Whether this is one of several processes.

    Raises:
      app.UsageError: the flags that say so are not all there, or do not fit.
    """
    coordinator, num, i = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if coordinator is None:
        if num is not None or i is not None:
            raise app.UsageError("--num_processes and --process_id are for --coordinator=HOST:PORT")
        if flags.FLAGS[HOST_TIMEOUT.name].present and not DISTRIBUTED.value:
            raise app.UsageError("--host_timeout is for --distributed or --coordinator=HOST:PORT")
        return DISTRIBUTED.value
    if num is None or i is None:
        raise app.UsageError("--coordinator needs --num_processes and --process_id, too")
    if not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise app.UsageError(f"--coordinator takes HOST:PORT, not {coordinator!r}")
    if i >= num:
        raise app.UsageError(f"--process_id={i} of --num_processes={num}: the first one is 0")
    return True


def run(config: ConfigDict) -> int:
    """What the command line asks for.

    Returns:
      The exit code: 0; 1 of a run whose numbers are not finite; 128 + a signal that has stopped it.
    """
    ways = DESCRIBE, INIT_FROM, PROFILE, cli.WORKDIR
    hosts.check_same({"choice of flags": str([bool(flag.value) for flag in ways])})
    with hosts.agreed():
        checks.check_values(config)
        checks.check_use(config, cli.load_page(), cli.overrides())
        if config.population == 1 and (TOGETHER.value is not None or MAX_MEMBERS.value):
            raise app.UsageError("--together and --max_members are for --config.population=N")
        if config.population > 1 and jax.process_count() > 1:
            raise app.UsageError("population is for one process: a sweep has a worker a machine")
    init_from, profile = (
        Path(os.path.expanduser(flag.value)) if flag.value else None
        for flag in (INIT_FROM, PROFILE)
    )
    if DESCRIBE.value:
        with hosts.agreed():
            dataset, gan, _ = starts.prepare(config)
            if init_from:
                starts.read_donor(init_from, gans.abstract_state(gan, config))
            words = describe.describe(config, dataset, gan)
        if hosts.is_first():
            print(words)
        return 0
    signals = cli.remember_signals()
    stop = stopping(signals)
    name = cli.WORKDIR.value or hosts.tell(default_workdir(config, cli.config_name()))[0]
    workdir = Path(os.path.expanduser(name))
    settings = config, workdir, init_from, stop, profile
    if config.population > 1:
        train_population(*settings, TOGETHER.value, MAX_MEMBERS.value)
    else:
        train_and_evaluate(*settings)
    if signal_of_any := max(map(int, hosts.tell(str(signals[0] if signals else 0)))):
        return 128 + signal_of_any
    rows = runs.read_metrics(workdir)
    return int(config.population == 1 and bool(rows) and population.is_lost(rows[-1]))


def stopping(signals: list[int]) -> Callable[[], bool]:
    """Asked after each call: whether a signal has come, or --max_seconds are over, from now on."""
    end = time.monotonic() + (math.inf if MAX_SECONDS.value is None else MAX_SECONDS.value)
    return lambda: bool(signals) or time.monotonic() >= end


def default_workdir(config: ConfigDict, name: str) -> str:
    """runs/<config>-<recipe>-<time>, to the microsecond: runs that begin together are apart."""
    time_now = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return "runs/" + "-".join(part for part in (name, config.recipe, time_now) if part)


def train_and_evaluate(
    config: ConfigDict,
    workdir: Path,
    init_from: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    profile: Path | None = None,
    watch: Callable[[dict[str, Any]], bool] = lambda row: False,
) -> gans.GanState:
    """Trains in `workdir`, from where a run that is there has stopped.

    Args:
      config: see configs/default.py.
      workdir: the run's folder (runs.py).
      init_from: a run whose networks a new run starts from.
      stop: asked before the first step and after each call; where true the run is saved and ends.
      profile: a folder for a trace of PROFILED_CALLS, which TensorBoard opens.
      watch: given every row of metrics.jsonl, the last one there is at first; where true the run
        is saved and ends.
    Returns:
      The last state.
    Raises:
      app.UsageError: a mistake, before anything is compiled or written.
      OSError: the run's folder could not be written to.
    """
    return train_together([config], [workdir], workdir, init_from, stop, profile, watch)[0]


def train_together(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[Path],
    folder: Path,
    init_from: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    profile: Path | None = None,
    watch: Callable[[dict[str, Any]], bool] = lambda row: False,
    prepared: starts.Prepared | None = None,
    rollbacks: int = 0,
) -> list[gans.GanState]:
    """`train_and_evaluate` of runs of one `population.structure`, in one program.

    One whose numbers are no longer finite is frozen, and the others go on; one alone does as
    `on_nan` says.

    Args:
      configs: of the runs; one alone is no population.
      workdirs: their folders: each gets its run's last state, and its best.
      folder: of the states of all together, from which they go on; one alone has it in its own.
      init_from, stop, profile, watch: as there; one alone is watched.
      prepared: of the first config, where it is known.
      rollbacks: how many this start is to have had.
    Returns:
      The last states.
    Raises:
      app.UsageError, OSError: as there.
    """
    training = starts.begin(configs, workdirs, folder, init_from, profile, prepared, rollbacks)
    dataset, gan, judge = training.prepared
    state, members = training.state, training.members
    config, num_members = members[0].config, len(members)
    labels = gans.class_rows(gan, 10, starts.NUM_SAMPLES // 10)

    def report_picture(i: int) -> None:
        average, member = population.member(state, i).average, members[i]
        network = gans.standing_statistics(gan, average, member.picture_key)
        fakes = sample(gan, network, member.latents, labels)
        member.log.picture(step, fakes, dataset.images)

    step = int(state.step)
    vote = hosts.Vote(training.mesh)
    if hosts.is_first():
        print(f"{'Resuming' if training.resuming else 'Training'} in {folder}, from step {step:,}")
    start = compiled = time.perf_counter()
    seconds_before, first_step, evaluating = members[0].log.last["seconds"], step, 0.0
    compiled_step = step
    reached = scores.target_reached(config, members[0].log.last)
    stopped = num_members == 1 and population.is_lost(members[0].log.last)
    if stopped and hosts.is_first():
        way = "--config.on_nan=rollback goes on from the last checkpoint"
        tqdm.write(f"{folder} has stopped at numbers that are not finite: {way}", file=sys.stderr)
    ending = stopped or reached or vote(stop()) or (num_members == 1 and watch(members[0].log.last))
    metrics: dict[str, jax.Array] = {}
    going = population.going(state)
    lost: list[int] = []
    ending |= not going
    calls = 0
    with (
        devices.used(training.mesh),
        tqdm(
            total=config.num_steps * config.batch_size * num_members,
            initial=step * config.batch_size * num_members,
            unit="img",
            unit_scale=True,
            disable=not (sys.stderr.isatty() and hosts.is_first()),
        ) as bar,
        contextlib.ExitStack() as tracing,
        reading(training, any_left=step < config.num_steps and not ending) as read,
    ):
        try:
            if _due(step, config.sample_every, reached or step == config.num_steps):
                for i in going:  # the first picture; or one that a kill has left out
                    if hosts.any_of(not runs.sample_path(members[i].workdir, step).exists()):
                        report_picture(i)
            if num_members > 1 and _due(step, config.checkpoint_every, ending=True):
                over = ending or step == config.num_steps  # a kill may have left these out, too
                save_members(
                    training, state, [i for i in range(num_members) if over or i not in going]
                )
            while step < config.num_steps and not ending:
                previous, lost = metrics, []
                calls += 1
                if profile and calls == PROFILED_CALLS.start:
                    tracing.enter_context(jax.profiler.trace(hosts.own(profile)))
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, metrics, num = next_steps(config, gan, state, read, step)
                    jax.block_until_ready(previous)  # one call ahead, no more: stops are prompt
                if calls == PROFILED_CALLS.stop - 1:
                    jax.block_until_ready(state)
                    tracing.close()
                step += num
                if compiled_step == first_step:
                    jax.block_until_ready(state)
                    compiled, compiled_step = time.perf_counter(), step
                bar.update(num * config.batch_size * num_members)
                last, stopping_now = step == config.num_steps, vote(stop())
                rows: dict[int, dict[str, float]] = {i: {} for i in going}
                reporting = _due(step, config.log_every, last)
                every = config.eval_every, config.checkpoint_every
                if reporting or stopping_now or any(_due(step, n, ending=False) for n in every):
                    before, going = going, population.going(state, metrics)
                    lost = [i for i in before if i not in going]
                if reporting or lost:
                    values = {f"train/{name}": np.ravel(x) for name, x in metrics.items()}
                    rows = {i: {name: float(x[i]) for name, x in values.items()} for i in rows}
                    shown = {
                        name: [row[f"train/{name}"] for row in rows.values()] for name in SHOWN
                    }
                    bar.set_postfix({name: f"{np.mean(x):.3f}" for name, x in shown.items()})
                if _due(step, config.eval_every, ending=False):
                    jax.block_until_ready(state)
                    paused = time.perf_counter()
                    for i in going:
                        average = population.member(state, i).average
                        key = members[i].eval_key
                        found = json.dumps(scores.evaluate(judge, gan, average, key))
                        rows[i] |= json.loads(hosts.tell(found)[0])  # rounding may differ
                    evaluating += time.perf_counter() - paused
                seconds = seconds_before + time.perf_counter() - start
                for i in lost if hosts.is_first() else []:
                    tqdm.write(lost_words(members[i], state, i, step, rows[i]), file=sys.stderr)
                for i, row in rows.items():
                    if row:
                        report_row(members[i], step, row, seconds)
                        reached |= scores.target_reached(config, members[i].log.last)
                        ending |= num_members == 1 and watch(members[i].log.last)
                if _due(step, config.sample_every, last or reached):
                    for i in going:
                        report_picture(i)
                ending = ending or last or reached or not going or stopping_now
                saved = {i for i in going if ending or members[i].checkpoints.best_step == step}
                saved |= set(lost)
                if lost and num_members == 1:  # no state to go on from
                    break
                if _due(step, config.checkpoint_every, bool(ending or saved)):
                    training.checkpoints.save(step, state)
                    save_members(training, state, saved)
            jax.block_until_ready(state)
            end = time.perf_counter()
        finally:
            starts.close(training)
    if lost and num_members == 1:
        if config.on_nan == "rollback" and training.rollbacks < config.max_rollbacks:
            again = training.rollbacks + 1
            return train_together(
                configs, workdirs, folder, None, stop, None, watch, training.prepared, again
            )
        keep_lost(folder, step, population.member(state, 0))
    if not hosts.is_first():
        return [population.member(state, i) for i in range(num_members)]
    for member in members:
        write_page(member.workdir)
    if reached:
        value = members[0].log.last[config.target.metric]
        print(f"Reached {config.target.metric} = {value:.4g}")
    elif step == first_step and not ending:
        print(f"Nothing to do: num_steps is {config.num_steps:,}")
    size = config.batch_size * num_members
    images, after_first = ((step - n) * size for n in (first_step, compiled_step))
    rate = after_first / (end - compiled - evaluating)
    place = folder if num_members == 1 else folder.parent
    print(runs.summary(place, step, images, end - start, rate))
    if profile:
        traced = calls >= PROFILED_CALLS.start
        print(f"  profile      {profile if traced else 'none: training was too short'}")
    return [population.member(state, i) for i in range(num_members)]


def train_members(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[Path],
    folder: Path,
    init_from: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    profile: Path | None = None,
    together: bool | None = None,
    max_members: int | None = None,
    prepared: starts.Prepared | None = None,
) -> None:
    """Trains runs of one `population.structure`: in one program, or one after the other through it.

    A run is the same either way, but for rounding; one whose numbers are not finite ends.

    Args:
      configs, workdirs, init_from, stop, profile, prepared: as of `train_together`.
      folder: of what they have together.
      together: in one program; None: where the platform gains.
      max_members: of one program; None: as many as fit into memory.
    Raises:
      app.UsageError, OSError: as there.
    """
    prepared = prepared or starts.prepare(configs[0])
    firsts = sorted(int(path.name.removeprefix("from_")) for path in folder.glob("from_*"))
    apart = not firsts and any((place / "checkpoints").exists() for place in workdirs)
    if together is None and (firsts or apart):
        together = bool(firsts)
    together = trains_together(configs[0], together)
    if (together and apart) or (firsts and not together):
        begun = "one after the other" if apart else "together"
        raise app.UsageError(f"the runs of {folder} have begun {begun}, and go on so")
    if together and not firsts:
        if max_members is None:
            images = prepared.dataset.images
            half = data.memory() // 2 - (0 if prepared.dataset.streamed else images.nbytes)
            max_members = max(1, half // population.member_memory(prepared.gan, configs[0]))
        parts = -(-len(configs) // max_members)  # of about one size: fewer programs
        firsts = [len(configs) * i // parts for i in range(parts)]
        for first in firsts:  # a start with more memory has the same parts
            (folder / f"from_{first}").mkdir(parents=True)
    bounds = firsts or list(range(len(configs)))
    for first, end in zip(bounds, [*bounds[1:], len(configs)]):
        place = folder / f"from_{first}" if end - first > 1 else workdirs[first]
        members = configs[first:end], workdirs[first:end]
        kept = (place / "checkpoints").exists()
        if not stop() and (kept or not any(map(starts.has_ended, members[1], members[0]))):
            train_together(
                *members,
                place,
                init_from,
                stop,
                profile,
                population.is_lost,
                prepared,
            )


def trains_together(config: ConfigDict, together: bool | None) -> bool:
    """Whether runs of such a config train in one program: as told, or where the platform gains.

    Raises:
      app.UsageError: they cannot.
    """
    alone = config.shard_state or config.on_nan == "rollback"
    if together and alone:
        raise app.UsageError(
            "shard_state and on_nan=rollback are for runs that train alone: --notogether"
        )
    return population.gains() and not alone if together is None else together


def members_of(config: ConfigDict, workdir: Path) -> tuple[list[ConfigDict], list[Path]]:
    """The configs of a population's runs, of one seed after the other, and their folders."""
    configs = [config.copy_and_resolve_references() for _ in range(config.population)]
    for i, member in enumerate(configs):
        member.population, member.seed = 1, config.seed + i
    return configs, [workdir / f"seed_{member.seed}" for member in configs]


def train_population(
    config: ConfigDict,
    workdir: Path,
    init_from: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    profile: Path | None = None,
    together: bool | None = None,
    max_members: int | None = None,
) -> None:
    """Trains `population` runs that differ by their seeds, each in a folder of its own.

    Its own metrics.jsonl has the mean and the spread of theirs, as soon as they end.
    Arguments and errors are those of `train_and_evaluate`, the last two those of `train_members`.
    """
    trains_together(config, together)
    resuming = runs.check(workdir, config, init_from)
    prepared = starts.prepare(config)
    with runs.create(workdir, config, resuming, prepared.dataset.facts, init_from):
        configs, workdirs = members_of(config, workdir)
        train_members(
            configs, workdirs, workdir, init_from, stop, profile, together, max_members, prepared
        )
        log = runs.Log(workdir, 0)
        for row in population.mean_and_spread([runs.read_metrics(place) for place in workdirs]):
            log.write(row.pop("step"), row.pop("images"), row.pop("seconds"), row)
        log.close()
        write_page(workdir)
    print(f"{config.population} runs, mean and spread: {workdir / 'metrics.jsonl'}")


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


def save_members(training: starts.Training, state: State, chosen: Iterable[int]) -> None:
    """Saves the states of some members in their own folders; a frozen one's is of its own step."""
    for i in chosen:
        state_of_run = population.member(state, i)
        training.members[i].checkpoints.save(int(state_of_run.step), state_of_run)


def write_page(workdir: Path) -> None:
    """Writes report.html; where it cannot be a line says why, for all else of the run is there."""
    try:
        report.write_run_page(workdir, workdir / "report.html")
    except Exception as error:
        tqdm.write(f"{workdir}: no report.html: {type(error).__name__}: {error}", file=sys.stderr)


def report_row(member: starts.Member, step: int, row: dict[str, float], seconds: float) -> None:
    """A row of metrics.jsonl, its alarms on the screen, too."""
    images = step * member.config.batch_size
    alarms = member.log.write(step, images, seconds, row, scores.alarms)
    for alarm in alarms if hosts.is_first() else []:
        tqdm.write(f"{member.workdir}: step {step:,}: {alarm}", file=sys.stderr)
    starts.find_best(member)


def lost_words(
    member: starts.Member, state: State, i: int, step: int, row: dict[str, float]
) -> str:
    """What is known of the i-th member, whose numbers are no longer finite."""
    if isinstance(state, Population):
        frozen = int(population.member(state, i).step)
        return f"{member.workdir}: frozen after step {frozen:,}: no finite numbers since"
    figures = ", ".join(x for x, value in row.items() if not math.isfinite(value))
    players = [
        name
        for name in ("generator", "discriminator")
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(getattr(state, name).params))
    ]
    whose = f", and parameters of {' and '.join(players)}" if players else ""
    last = member.log.last
    finite = [f"{name} = {last[name]:.4g}" for name in row if last.get(name) is not None]
    before = f"; at step {last['step']:,} {', '.join(finite)}" if finite else ""
    return f"{member.workdir}: step {step:,}: not finite: {figures}{whose}{before}"


def keep_lost(folder: Path, step: int, state: gans.GanState) -> None:
    """Saves a state that is not finite apart from those that a run goes on from."""
    with hosts.agreed():
        if hosts.is_first():
            shutil.rmtree(folder / starts.NOT_FINITE, ignore_errors=True)  # of an earlier stop
    checkpoints = Checkpoints(folder / starts.NOT_FINITE)
    checkpoints.save(step, state)
    checkpoints.close()
    if hosts.is_first():
        shutil.copy(
            folder / "config.json", folder / starts.NOT_FINITE
        )  # for evaluate.py and sample.py
        print(f"Its state is in {folder / starts.NOT_FINITE}, to look at", file=sys.stderr)


def _due(step: int, every: int, ending: bool) -> bool:
    return every > 0 and (step % every == 0 or ending)


if __name__ == "__main__":
    cli.run(main, takes_config=True)

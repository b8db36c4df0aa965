"""Trains a GAN: `python train.py --config=configs/mnist.py [--workdir=DIR] [--config.FIELD=VALUE]`.

The same --workdir resumes. Press Ctrl-C to stop after the steps under way; what is done is saved.
Several processes train one run with --distributed, or with --coordinator and its two companions.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until main's own handler: Ctrl-C ends the imports, with no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import functools
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict
from tqdm import tqdm

import batches
import checks
import cli
import data
import describe
import devices
import gan as gans
import hosts
import population
import progress
import runs
import runtime
import starts
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
      The exit code: 0; 1 where the numbers of the run, or of all its members, are not finite;
      128 + a signal that has stopped it.
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
    workdirs = members_of(config, workdir)[1] if config.population > 1 else [workdir]
    last = [runs.read_metrics(place)[-1:] for place in workdirs]
    return int(all(rows and population.is_lost(rows[0]) for rows in last))


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
    log_all: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
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
      log_all: given what metrics.jsonl gets of them all at a step.
      rollbacks: how many this start is to have had.
    Returns:
      The last states.
    Raises:
      app.UsageError, OSError: as there.
    """
    training = starts.begin(configs, workdirs, folder, init_from, profile, prepared, rollbacks)
    dataset, gan, _ = training.prepared
    state, members = training.state, training.members
    config, size = members[0].config, members[0].config.batch_size * len(members)
    labels = gans.class_rows(gan, 10, starts.NUM_SAMPLES // 10)
    step = first_step = compiled_step = int(state.step)
    if hosts.is_first():
        print(f"{'Resuming' if training.resuming else 'Training'} in {folder}, from step {step:,}")
    vote = hosts.Vote(training.mesh)
    course = progress.Course(training, watch, log_all)
    course.ending |= vote(stop())
    clock = progress.Clock(members[0].log.last["seconds"])
    metrics: dict[str, jax.Array] = {}
    held, calls = False, 0  # held: the row of `metrics` is yet to be written
    exact = config.target.metric.startswith("train/")  # the state is to be that of the row

    def draw_picture(i: int) -> None:
        average, member = population.member(state, i).average, members[i]
        network = gans.standing_statistics(gan, average, member.picture_key)
        fakes = sample(gan, network, member.latents, labels)
        member.log.picture(step, fakes, dataset.images)

    with (
        devices.used(training.mesh),
        tqdm(
            total=config.num_steps * size,
            initial=step * size,
            unit="img",
            unit_scale=True,
            disable=not (sys.stderr.isatty() and hosts.is_first()),
        ) as bar,
        contextlib.ExitStack() as tracing,
        batches.reading(training, step < config.num_steps and not course.ending) as read,
    ):
        try:
            over = course.ending or step == config.num_steps
            if _due(step, config.sample_every, course.reached or step == config.num_steps):
                for i in course.going:  # the first picture; or one that a kill has left out
                    if hosts.any_of(not runs.sample_path(members[i].workdir, step).exists()):
                        draw_picture(i)
            if not course.alone and config.checkpoint_every:  # a kill may have left these out, too
                gone = [i for i in range(len(members)) if over or i not in course.going]
                progress.save_members(training, state, gone)
            while step < config.num_steps and not course.ending:
                previous, course.lost = metrics, []
                calls += 1
                if profile and calls == PROFILED_CALLS.start:
                    tracing.enter_context(jax.profiler.trace(hosts.own(profile)))
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, metrics, num = next_steps(config, gan, state, read, step)
                    jax.block_until_ready(previous)  # one call ahead, no more: stops are prompt
                if calls == PROFILED_CALLS.stop - 1:
                    jax.block_until_ready(state)
                    tracing.close()
                if held:  # while the device is at the next call
                    course.look(previous)
                    course.write(step, clock.seconds(), state, previous, {})
                    bar.set_postfix(course.shown)
                step += num
                if compiled_step == first_step:
                    jax.block_until_ready(state)
                    clock.compiled()
                    compiled_step = step
                bar.update(num * size)
                last, stopping_now = step == config.num_steps, vote(stop())
                logging = _due(step, config.log_every, last)
                every = config.sample_every, config.eval_every, config.checkpoint_every
                waiting = last or stopping_now or course.ending or bool(course.lost)
                waiting |= exact and logging
                waiting |= any(_due(step, n, ending=False) for n in every)
                held = logging and not waiting
                if course.lost and course.alone:  # no state to go on from
                    break
                if not waiting:
                    continue
                lost = course.lost
                course.look(metrics)
                scored = {}
                if _due(step, config.eval_every, ending=False):
                    jax.block_until_ready(state)
                    with clock.paused():
                        scored = course.score(state)
                noted = bool(members[0].log.notes)  # a later start would not know of it
                shown = metrics if logging or course.lost or noted else {}
                course.write(step, clock.seconds(), state, shown, scored)
                bar.set_postfix(course.shown)
                if _due(step, config.sample_every, last or course.reached):
                    for i in course.going:
                        draw_picture(i)
                course.ending |= last or stopping_now
                if course.lost and course.alone:
                    break
                best = [i for i in course.going if members[i].checkpoints.best_step == step]
                saved = {*lost, *course.lost, *(course.going if course.ending else best)}
                if _due(step, config.checkpoint_every, bool(course.ending or saved)):
                    training.checkpoints.save(step, state)
                    progress.save_members(training, state, saved)
            jax.block_until_ready(state)
            seconds = clock.here(), clock.training()
        finally:
            starts.close(training)
    states = [population.member(state, i) for i in range(len(members))]
    if course.lost and course.alone:
        if config.on_nan == "rollback" and training.rollbacks < config.max_rollbacks:
            again = training.rollbacks + 1
            settings = stop, None, watch, training.prepared, log_all, again
            return train_together(configs, workdirs, folder, None, *settings)
        progress.keep_lost(folder, step, states[0])
    if not hosts.is_first():
        return states
    for member in members:
        progress.write_page(member.workdir)
    if course.reached:
        value = members[0].log.last[config.target.metric]
        print(f"Reached {config.target.metric} = {value:.4g}")
    elif step == first_step and not course.ending:
        print(f"Nothing to do: num_steps is {config.num_steps:,}")
    rate = (step - compiled_step) * size / seconds[1]
    place = Path(os.path.commonpath(workdirs))
    print(runs.summary(place, step, (step - first_step) * size, seconds[0], rate))
    if profile:
        traced = calls >= PROFILED_CALLS.start
        print(f"  profile      {profile if traced else 'none: training was too short'}")
    return states


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
    log_all: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
    trained: Callable[[], None] = lambda: None,
) -> None:
    """Trains runs of one `population.structure`: in one program, or one after the other through it.

    A run is the same either way, but for rounding; one whose numbers are not finite ends.

    Args:
      configs, workdirs, init_from, stop, profile, prepared: as of `train_together`.
      folder: of what they have together.
      together, max_members: as of `go_together`.
      log_all: as of `train_together`, where one program trains them all.
      trained: called after each that trains alone, and each program of several.
    Raises:
      app.UsageError, OSError: as there.
    """
    together = go_together(configs[0], workdirs, folder, together, max_members)
    prepared = prepared or starts.prepare(configs[0])
    firsts = begun_parts(workdirs, folder)
    if firsts is None:
        firsts = []
        for place in workdirs:
            runs.check_free(place)
        for place in folder.glob("from_*"):  # of a start that came to nothing
            shutil.rmtree(place)
        if together and not stop():
            num_devices = devices.make_mesh(configs[0].devices).size
            if max_members is None:
                on_each = members_on_each(configs[0], prepared)
            else:
                num_devices = min(num_devices, max_members)
                on_each = max_members // num_devices
            firsts = population.firsts(len(configs), num_devices, on_each)
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
                log_all if end - first == len(configs) else lambda rows: None,
            )
            trained()


def go_together(
    config: ConfigDict,
    workdirs: Sequence[Path],
    folder: Path,
    together: bool | None = None,
    max_members: int | None = None,
) -> bool:
    """Whether runs train in one program: as they have begun, as told, or where the platform gains.

    Args:
      config: of one of them.
      workdirs, folder: as of `train_members`.
      together: as told; None: nothing is.
      max_members: of one program; None: as many as fit into memory.
    Raises:
      app.UsageError: they cannot, or have begun in another way.
    """
    firsts = begun_parts(workdirs, folder)
    if together is None and firsts is not None:
        together = bool(firsts)
    together = trains_together(config, together)
    if firsts is not None and together != bool(firsts):
        begun = "together" if firsts else "one after the other"
        raise app.UsageError(f"the runs of {folder} have begun {begun}, and go on so")
    if max_members and not together:
        raise app.UsageError("--max_members does nothing where runs train alone: --together")
    firsts = firsts or []
    most = max((end - i for i, end in zip(firsts, [*firsts[1:], len(workdirs)])), default=0)
    if max_members and most > max_members:
        raise app.UsageError(
            f"the runs of {folder} have begun {most} together, and go on so, without --max_members"
        )
    return together


def begun_parts(workdirs: Sequence[Path], folder: Path) -> list[int] | None:
    """The first members of the programs that runs have begun in: none, if one after the other.

    None where nothing has begun: there is no row, and no state.
    """
    parts = list(folder.glob("from_*"))
    states = any((place / "checkpoints").exists() for place in [*parts, *workdirs])
    if states or any(runs.read_metrics(place) for place in workdirs):
        return sorted(int(place.name.removeprefix("from_")) for place in parts)
    return None


def members_on_each(config: ConfigDict, prepared: starts.Prepared) -> int:
    """How many members half of a device's memory holds."""
    dataset, gan, _ = prepared
    steps = config.steps_per_call
    steps = steps or starts.steps_per_call(gan, gans.abstract_state(gan, config))
    half = data.memory() // 2 - (0 if dataset.streamed else dataset.images.nbytes)
    return max(1, half // population.member_memory(gan, config, steps))


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

    Its own metrics.jsonl has the mean and the spread of theirs, row by row where one program trains
    them all, else as soon as one has trained its own.
    Arguments and errors are those of `train_and_evaluate`, the last two those of `train_members`.
    """
    resuming = runs.check(workdir, config, init_from)
    configs, workdirs = members_of(config, workdir)
    go_together(config, workdirs, workdir, together, max_members)
    if resuming:
        init_from = runs.first_weights(workdir) or init_from
    prepared = starts.prepare(config)
    with (
        runs.create(workdir, config, resuming, prepared.dataset.facts, init_from),
        contextlib.closing(progress.CommonLog(workdir)) as common,
    ):

        def complete() -> None:
            common.complete(workdirs)
            progress.write_page(workdir)

        ways = together, max_members, prepared, common.write, complete
        train_members(configs, workdirs, workdir, init_from, stop, profile, *ways)
        complete()
    lost = [population.is_lost(row) for x in workdirs for row in runs.read_metrics(x)[-1:]]
    if not all(lost):
        num = f"{lost.count(False)} of {config.population} runs"
        print(f"{num}, mean and spread: {workdir / 'metrics.jsonl'}")
    elif lost:
        print("No run has finite numbers any more")


def _due(step: int, every: int, ending: bool) -> bool:
    return every > 0 and (step % every == 0 or ending)


if __name__ == "__main__":
    cli.run(main, takes_config=True)

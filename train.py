"""Trains a GAN: `python train.py --config=configs/mnist.py [--workdir=DIR] [--config.FIELD=VALUE]`.

The same --workdir resumes. Press Ctrl-C to stop after the current step; what is done is saved.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until main's own handler: Ctrl-C ends the imports, with no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from tqdm import tqdm

import checks
import cli
import data
import describe
import gan as gans
import runs
import scores

INIT_FROM = flags.DEFINE_string("init_from", None, "A run whose weights a new run starts from.")
DESCRIBE = flags.DEFINE_bool("describe", False, "Say what would be trained, and train nothing.")
PROFILE = flags.DEFINE_string("profile", None, "A folder for a trace of some steps (TensorBoard).")

NUM_SAMPLES = 100  # of a picture
PROFILED_CALLS = range(2, 12)  # of a start, whose first one compiles
STEPS_PER_CALL = 50  # where loops gain; half of log_every, so that every call has as many
LONG_STEP = 2e9  # parameters times examples: a step of so many takes longer than a call does
# Folded into the state's key, of which step k takes number k: steps, int32, never reach these.
ORDER_KEY, PICTURE_KEY = 2**32 - 1, 2**32 - 2


@functools.partial(jax.jit, static_argnames=("gan", "lazy"), donate_argnames="state")
def train_steps(
    gan: gans.Gan,
    state: gans.GanState,
    examples: dict[str, jax.Array],
    indices: jax.Array,
    num: jax.Array | None = None,
    lazy: bool = True,
) -> tuple[gans.GanState, dict[str, jax.Array]]:
    """`num` updates on the examples at `indices`, [steps_per_call, ...]; the last one's metrics.

    None is all of them: a program of its own, as a GPU waits for a number of steps that it is told.
    With one step a call it is no loop, and `lazy` says whether that step carries the penalties.
    """
    if len(indices) == 1:
        return gans.update(gan, state, data.take(examples, indices[0]), lazy)
    num_steps = len(indices) if num is None else num
    return gans.updates(gan, state, lambda i: data.take(examples, indices[i]), num_steps)


def next_steps(
    config: ConfigDict,
    gan: gans.Gan,
    state: gans.GanState,
    examples: dict[str, jax.Array],
    indices: Callable[[int], np.ndarray],
    step: int,
) -> tuple[gans.GanState, dict[str, jax.Array], int]:
    """One call: `steps_per_call` steps, or fewer up to the next report.

    Returns:
      The last state (the given one is donated), its metrics, and how many steps were taken.
    """
    reports = (config.log_every, config.sample_every, config.eval_every, config.checkpoint_every)
    ends = [every - step % every for every in reports if every]
    num = min(config.steps_per_call, config.num_steps - step, *ends)
    lazy = (step + num) % config.lazy_every == 0
    rows = np.stack([indices(step + min(i, num - 1)) for i in range(config.steps_per_call)])
    fewer = num if num < len(rows) else None
    state, metrics = train_steps(gan, state, examples, rows, fewer, lazy or len(rows) > 1)
    carried = {name: metrics[name] for name in metrics if lazy or name not in gan.penalties}
    return state, carried, num


def steps_per_call(gan: gans.Gan, state: gans.GanState) -> int:
    """What the platform gains by, for these networks; 1 of long steps, so that stops are prompt."""
    players = state.generator.params, state.discriminator.params
    size = sum(leaf.size for leaf in jax.tree.leaves(players))
    long = size * gan.batch_size >= LONG_STEP
    return STEPS_PER_CALL if gans.loops_gain(state) and not long else 1


@functools.partial(jax.jit, static_argnames="gan")
def sample(
    gan: gans.Gan, network: gans.Network, latents: jax.Array, labels: jax.Array | None = None
) -> jax.Array:
    """A generator's examples, images as uint8."""
    examples = gans.sample(gan, network, latents, labels)
    return gans.to_uint8(examples) if examples.ndim == 4 else examples


def main(argv: list[str]) -> None:
    del argv
    config = flags.FLAGS.config
    checks.check_values(config)
    checks.check_use(config, cli.load_page(), cli.overrides())
    if DESCRIBE.value:
        print(describe.describe(config, *prepare(config)[:2]))
        return
    signals: list[int] = []

    def remember(number: int, _: Any) -> None:
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)
    name = cli.WORKDIR.value or default_workdir(config, cli.config_name())
    workdir = Path(os.path.expanduser(name))
    init_from, profile = (
        Path(os.path.expanduser(flag.value)) if flag.value else None
        for flag in (INIT_FROM, PROFILE)
    )
    train_and_evaluate(config, workdir, init_from, lambda: bool(signals), profile)
    if signals:
        sys.exit(128 + signals[0])


def prepare(config: ConfigDict) -> tuple[data.Dataset, gans.Gan, scores.Judge]:
    """The data set, GAN and judge of a config, everything in it checked, nothing compiled.

    Raises:
      app.UsageError: in one line, what is impossible.
    """
    checks.check_values(config)
    dataset = data.load(config)
    gan = gans.make_gan(config, dataset.spec)
    checks.check_fit(config, gan, dataset)
    judge = scores.make_judge(config, dataset)
    checks.check_metrics(config, gan, judge)
    return dataset, gan, judge


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
) -> gans.GanState:
    """Trains in `workdir`, from where a run that is there has stopped.

    Args:
      config: see configs/default.py.
      workdir: the run's folder (runs.py).
      init_from: a run whose networks a new run starts from.
      stop: asked before the first step and after each call; where true the run is saved and ends.
      profile: a folder for a trace of PROFILED_CALLS, which TensorBoard opens.
    Returns:
      The last state.
    Raises:
      app.UsageError: a mistake, before anything is compiled or written.
      OSError: the run's folder could not be written to.
    """
    resuming = runs.check(workdir, config)
    dataset, gan, judge = prepare(config)
    checkpoints = runs.Checkpoints(workdir)
    restoring = checkpoints.latest_step() is not None
    if restoring and init_from:
        raise app.UsageError(f"init_from is for a new run, and workdir {workdir} holds one")
    abstract_state = jax.eval_shape(lambda: gans.init(gan, config, jax.random.key(config.seed)))
    donor = read_donor(init_from, abstract_state) if init_from else None
    restored = checkpoints.restore(abstract_state) if restoring else None
    if config.steps_per_call is None:
        config = config.copy_and_resolve_references()
        stored = runs.read_config(workdir).get("steps_per_call", 1) if resuming else None
        config.steps_per_call = stored or steps_per_call(gan, abstract_state)
    if profile:
        make_folder(profile)
    lock = runs.create(workdir, config, resuming)

    state = restored or gans.init(gan, config, jax.random.key(config.seed))
    if donor:
        state = with_networks(state, donor)
        if config.checkpoint_every:
            checkpoints.save(0, state)  # a resume does not name the donor again
    step = int(state.step)
    log = runs.Log(workdir, step)
    examples = {"images": jax.device_put(dataset.images)}
    if gan.num_classes:
        examples["labels"] = jax.device_put(dataset.labels)
    indices = data.make_indices(
        jax.random.fold_in(state.key, ORDER_KEY),
        len(dataset.images),
        gans.batch_shape(gan),
        dataset.labels if config.balanced else None,
    )
    picture_key = jax.random.fold_in(state.key, PICTURE_KEY)
    latents = gans.draw_latents(gan, picture_key, NUM_SAMPLES)
    labels = gans.class_rows(gan, 10, NUM_SAMPLES // 10)

    best_metric = config.best_metric or scores.best_metric(judge)
    eval_key = jax.random.fold_in(state.key, scores.EVAL_KEY)
    checkpoints.best_step = best_step(log.rows, best_metric)

    def report_picture() -> None:
        network = gans.standing_statistics(gan, state.average, picture_key)
        fakes = np.asarray(sample(gan, network, latents, labels))
        log.picture(step, runs.draw(fakes, dataset.images))

    def report_row(row: dict[str, float], seconds: float) -> None:
        found = log.write(step, step * config.batch_size, seconds, row, scores.alarms)
        for alarm in found:
            tqdm.write(f"Step {step:,}: {alarm}", file=sys.stderr)
        checkpoints.best_step = best_step(log.rows, best_metric)

    print(f"{'Resuming' if resuming else 'Training'} in {workdir}, from step {step:,}")
    start = compiled = time.perf_counter()
    seconds_before, first_step, evaluating = log.last["seconds"], step, 0.0
    compiled_step = step
    reached = target_reached(config, log.last)
    ending = reached or stop()
    metrics: dict[str, jax.Array] = {}
    if step == 0 and config.sample_every and not ending:
        report_picture()
    calls = 0
    with (
        tqdm(
            total=config.num_steps * config.batch_size,
            initial=step * config.batch_size,
            unit="img",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        ) as bar,
        contextlib.ExitStack() as tracing,
    ):
        try:
            while step < config.num_steps and not ending:
                previous = metrics
                calls += 1
                if profile and calls == PROFILED_CALLS.start:
                    tracing.enter_context(jax.profiler.trace(profile))
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, metrics, num = next_steps(config, gan, state, examples, indices, step)
                    jax.block_until_ready(previous)  # one call ahead, no more: stops are prompt
                if calls == PROFILED_CALLS.stop - 1:
                    jax.block_until_ready(state)
                    tracing.close()
                step += num
                if compiled_step == first_step:
                    jax.block_until_ready(state)
                    compiled, compiled_step = time.perf_counter(), step
                bar.update(num * config.batch_size)
                last = step == config.num_steps
                row = {}
                if _due(step, config.log_every, last):
                    row = {f"train/{name}": float(value) for name, value in metrics.items()}
                    bar.set_postfix({k: f"{row[f'train/{k}']:.3f}" for k in ("d_loss", "g_loss")})
                if _due(step, config.eval_every, ending=False):
                    jax.block_until_ready(state)
                    paused = time.perf_counter()
                    row |= scores.evaluate(judge, gan, state.average, eval_key)
                    evaluating += time.perf_counter() - paused
                if row:
                    seconds = seconds_before + time.perf_counter() - start
                    report_row(row, seconds)
                    reached = target_reached(config, log.last)
                if _due(step, config.sample_every, last or reached):
                    report_picture()
                ending = last or reached or stop()
                if _due(step, config.checkpoint_every, ending or checkpoints.best_step == step):
                    checkpoints.save(step, state)
            jax.block_until_ready(state)
            end = time.perf_counter()
        finally:
            log.close()
            checkpoints.close()
            lock.close()
    if reached:
        print(f"Reached {config.target.metric} = {log.last[config.target.metric]:.4g}")
    elif step == first_step and not ending:
        print(f"Nothing to do: num_steps is {config.num_steps:,}")
    images, after_first = ((step - n) * config.batch_size for n in (first_step, compiled_step))
    rate = after_first / (end - compiled - evaluating)
    print(runs.summary(workdir, step, images, end - start, rate))
    if profile:
        traced = calls >= PROFILED_CALLS.start
        print(f"  profile      {profile if traced else 'none: training was too short'}")
    return state


def make_folder(profile: Path) -> None:
    """Raises app.UsageError where there can be no such folder."""
    try:
        profile.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise app.UsageError(f"profile {profile}: {error.strerror}") from error


def target_reached(config: ConfigDict, row: dict[str, Any]) -> bool:
    """Whether the row of metrics.jsonl has the preset figure, or a better one."""
    name, target = config.target.metric, config.target.value
    value = row.get(name)
    if value is None:
        return False
    return scores.distance_from_best(name, value) <= scores.distance_from_best(name, target)


def best_step(rows: list[dict[str, Any]], metric: str | None) -> int | None:
    """The step whose row has the best value of a metric, the first of equals; None without one."""
    if metric is None:
        return None
    scored = [row for row in rows if row.get(metric) is not None]
    if not scored:
        return None
    return min(scored, key=lambda row: scores.distance_from_best(metric, row[metric]))["step"]


def read_donor(workdir: Path, abstract_state: gans.GanState) -> dict[str, Any]:
    """Another run's latest state, as `runs.read_networks` has it.

    Raises:
      app.UsageError: there is none, or its networks are not those of `abstract_state`.
    """
    donor = runs.read_networks(workdir)
    for player in ("generator", "discriminator", "average"):
        ours = getattr(abstract_state, player)
        network = {"params": ours.params, "variables": ours.variables}
        theirs = {kind: donor[player][kind] for kind in network}
        if jax.tree.map(jnp.shape, network) != jax.tree.map(jnp.shape, theirs):
            raise app.UsageError(f"init_from: the {player} of {workdir} is another network")
    return donor


def with_networks(state: gans.GanState, donor: dict[str, Any]) -> gans.GanState:
    """A state whose networks and average have the numbers of a donor (`read_donor`)."""
    replaced = {}
    for player in ("generator", "discriminator", "average"):
        numbers = {kind: jax.device_put(donor[player][kind]) for kind in ("params", "variables")}
        replaced[player] = getattr(state, player).replace(**numbers)
    return state.replace(**replaced)


def _due(step: int, every: int, ending: bool) -> bool:
    return every > 0 and (step % every == 0 or ending)


if __name__ == "__main__":
    cli.run(main, takes_config=True)

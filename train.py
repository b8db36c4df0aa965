"""Trains a GAN: `python train.py --config=configs/mnist.py [--workdir=DIR] [--config.FIELD=VALUE]`.

The same --workdir resumes. Press Ctrl-C to stop after the current step; what is done is saved.
"""

from __future__ import annotations

import functools
import math
import signal
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

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; a run that is there is resumed.")
INIT_FROM = flags.DEFINE_string("init_from", None, "A run whose weights a new run starts from.")
DESCRIBE = flags.DEFINE_bool("describe", False, "Say what would be trained, and train nothing.")

NUM_SAMPLES = 100  # of a picture


@functools.partial(jax.jit, static_argnames=("gan", "lazy"), donate_argnames="state")
def train_step(
    gan: gans.Gan,
    state: gans.GanState,
    examples: dict[str, jax.Array],
    indices: jax.Array,
    lazy: bool,
) -> tuple[gans.GanState, dict[str, jax.Array]]:
    """`update` on the examples at `indices`."""
    return gans.update(gan, state, data.take(examples, indices), lazy)


@functools.partial(jax.jit, static_argnames="gan")
def sample(gan: gans.Gan, state: gans.GanState, latents: jax.Array) -> jax.Array:
    """The averaged generator's examples, images as uint8."""
    examples = gans.sample(gan, state.average, latents)
    return gans.to_uint8(examples) if examples.ndim == 4 else examples


def main(argv: list[str]) -> None:
    del argv
    config = flags.FLAGS.config
    checks.check_values(config)
    checks.check_overrides(config, cli.overrides())
    if DESCRIBE.value:
        print(describe.describe(config, *prepare(config)))
        return
    signals: list[int] = []

    def remember(number: int, _: Any) -> None:
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember)
    workdir = Path(WORKDIR.value or default_workdir(config, cli.config_name()))
    init_from = Path(INIT_FROM.value) if INIT_FROM.value else None
    train_and_evaluate(config, workdir, init_from, stop=lambda: bool(signals))
    if signals:
        sys.exit(128 + signals[0])


def prepare(config: ConfigDict) -> tuple[data.Dataset, gans.Gan]:
    """The data set and the GAN of a config, everything in it checked, nothing compiled.

    Raises:
      app.UsageError: in one line, what is impossible.
    """
    checks.check_values(config)
    dataset = data.load(config)
    gan = gans.make_gan(config, dataset.spec)
    checks.check_fit(config, gan, dataset)
    return dataset, gan


def default_workdir(config: ConfigDict, name: str) -> str:
    """runs/<config>-<recipe>-<time>."""
    time_now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return "runs/" + "-".join(part for part in (name, config.recipe, time_now) if part)


def train_and_evaluate(
    config: ConfigDict,
    workdir: Path,
    init_from: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> gans.GanState:
    """Trains in `workdir`, from where a run that is there has stopped.

    Args:
      config: see configs/default.py.
      workdir: the run's folder (runs.py).
      init_from: a run whose networks a new run starts from.
      stop: asked after every step; where true the run is saved and ends.
    Returns:
      The last state.
    Raises:
      app.UsageError: a mistake, before anything is written; weights that do not fit
        `init_from` are found after `init` has been compiled.
    """
    dataset, gan = prepare(config)
    resuming = runs.check(workdir, config)
    if resuming and init_from:
        raise app.UsageError(f"init_from is for a new run, and workdir {workdir} holds one")
    donor = runs.read_networks(init_from) if init_from else None
    state = gans.init(gan, config, jax.random.key(config.seed))
    if donor:
        state = with_networks(state, donor)

    runs.create(workdir, config)
    checkpoints = runs.Checkpoints(workdir)
    if checkpoints.latest_step() is not None:
        state = checkpoints.restore(state)
    step = first_step = int(state.step)
    log = runs.Log(workdir, step)
    examples = {k: jax.device_put(v) for k, v in dataset._asdict().items() if v is not None}
    indices = data.make_indices(
        state.key,
        len(dataset.images),
        gans.batch_shape(gan),
        dataset.labels if config.balanced else None,
    )
    latents = gans.draw_latents(gan, jax.random.key(config.seed), NUM_SAMPLES)

    def report_picture() -> None:
        fakes = np.asarray(sample(gan, state, latents))
        log.picture(step, runs.draw(fakes, dataset.images))

    print(
        f"{'Resuming' if step else 'Training'} in {workdir}, step {step:,} of {config.num_steps:,}"
    )
    if step == 0 and config.sample_every:
        report_picture()
    start = time.perf_counter()
    reached = ending = False
    with tqdm(
        total=config.num_steps * config.batch_size,
        initial=step * config.batch_size,
        unit="img",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        while step < config.num_steps and not ending:
            lazy = (step + 1) % config.lazy_every == 0
            state, metrics = train_step(gan, state, examples, indices(step), lazy)
            step += 1
            bar.update(config.batch_size)
            last = step == config.num_steps
            if _due(step, config.log_every, last):
                row = {f"train/{name}": float(value) for name, value in metrics.items()}
                seconds = log.seconds_before + time.perf_counter() - start
                log.write(step, step * config.batch_size, seconds, row)
                bar.set_postfix({k: f"{row[f'train/{k}']:.3f}" for k in ("d_loss", "g_loss")})
                if config.target.metric:
                    reached = row.get(config.target.metric, math.inf) <= config.target.value
            if _due(step, config.sample_every, last or reached):
                report_picture()
            ending = last or reached or stop()
            if _due(step, config.checkpoint_every, ending):
                checkpoints.save(step, state)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    checkpoints.close()
    log.close()
    if reached:
        print(f"Reached {config.target.metric} <= {config.target.value}")
    images = (step - first_step) * config.batch_size
    print(runs.summary(workdir, step, images, seconds))
    return state


def with_networks(state: gans.GanState, donor: dict[str, Any]) -> gans.GanState:
    """A state whose networks and average have the numbers of another one.

    Args:
      state: of a new run.
      donor: another run's state, as `runs.read_networks` has it.

    Raises:
      app.UsageError: they are of other networks.
    """
    replaced = {}
    for player in ("generator", "discriminator", "average"):
        ours = getattr(state, player)
        network = {"params": ours.params, "variables": ours.variables}
        theirs = {name: donor[player][name] for name in network}
        if jax.tree.map(jnp.shape, network) != jax.tree.map(jnp.shape, theirs):
            raise app.UsageError(f"init_from: the {player} of that run is another network")
        replaced[player] = ours.replace(**jax.tree.map(jnp.asarray, theirs))
    return state.replace(**replaced)


def _due(step: int, every: int, ending: bool) -> bool:
    return every > 0 and (step % every == 0 or ending)


if __name__ == "__main__":
    cli.run(main, takes_config=True)

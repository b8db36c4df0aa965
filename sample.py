"""Draws a picture of a run's samples.

    python sample.py --workdir=DIR [--step=N] [--out=FILE] [--rows=N] [--columns=N] [--seed=N]
    python sample.py --workdir=DIR --truncation=0.7

A GAN with labels draws a class a row.
"""

from __future__ import annotations

import os
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

import cli
import data
import gan as gans
import runs
import scores

STEP, TRUNCATION = cli.checkpoint_flags()
MODE = flags.DEFINE_enum("mode", "grid", ["grid"], "What is drawn.")
OUT = flags.DEFINE_string("out", None, "The picture's file; without it samples.png in the run.")
ROWS = flags.DEFINE_integer("rows", None, "Without it one a class, or 10.")
COLUMNS = flags.DEFINE_integer("columns", 10, "Samples of a row.")
SEED = flags.DEFINE_integer("seed", 0, "Of the latents.")

MOST_ROWS = 100  # of a picture, where nobody asks for more


def main(argv: list[str]) -> None:
    del argv
    if not cli.WORKDIR.value:
        raise app.UsageError("--workdir=DIR is missing: the folder of a run")
    for flag in (ROWS, COLUMNS):
        if flag.value is not None and flag.value < 1:
            raise app.UsageError(f"--{flag.name} must be at least 1, not {flag.value}")
    workdir = Path(os.path.expanduser(cli.WORKDIR.value))
    out = Path(os.path.expanduser(OUT.value)) if OUT.value else workdir / "samples.png"
    if not out.parent.is_dir():
        raise app.UsageError(f"--out={out}: there is no folder {out.parent}")
    config = cli.restore_config(runs.flatten(runs.read_config(workdir)))
    dataset = data.load(config)
    gan = gans.make_gan(config, dataset.spec)
    abstract_state = jax.eval_shape(lambda: gans.init(gan, config, jax.random.key(0)))
    with runs.open_checkpoints(workdir) as checkpoints:
        step = cli.choose_step(checkpoints.steps(), STEP.value)
        state = checkpoints.restore(abstract_state, step)
    rows = ROWS.value or min(gan.num_classes, MOST_ROWS) or 10
    key, num = jax.random.key(SEED.value), rows * COLUMNS.value
    labels = gans.class_rows(gan, rows, COLUMNS.value)
    given = None if labels is None else np.asarray(labels)
    try:
        fake = scores.draw(gan, state.average, key, num, given, TRUNCATION.value)
    except FloatingPointError as error:
        raise app.UsageError(f"{workdir}, step {step:,}: {error}") from error
    runs.draw(fake, dataset.images, COLUMNS.value).save(out)
    print(out)


if __name__ == "__main__":
    cli.run(main)

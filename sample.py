"""Draws a picture of a run's samples, or makes its page.

    python sample.py --workdir=DIR [--step=N] [--out=FILE] [--rows=N] [--columns=N] [--seed=N]
    python sample.py --workdir=DIR --truncation=0.7
    python sample.py --workdir=DIR --mode=report

A GAN with labels draws a class a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

import cli
import data
import gan as gans
import report
import runs
import scores

STEP, TRUNCATION = cli.checkpoint_flags()
OUT = flags.DEFINE_string("out", None, "The file; without it one in the run's folder.")
ROWS = flags.DEFINE_integer("rows", None, "Without it one a class, or 10.")
COLUMNS = flags.DEFINE_integer("columns", 10, "Samples of a row.")
SEED = flags.DEFINE_integer("seed", 0, "Of the latents.")

MOST_ROWS = 100  # of a picture, where nobody asks for more


class Run(NamedTuple):
    """What a checkpoint was opened as."""

    workdir: Path
    config: ConfigDict
    dataset: data.Dataset
    gan: gans.Gan
    state: gans.GanState


def main(argv: list[str]) -> None:
    del argv
    if not cli.WORKDIR.value:
        raise app.UsageError("--workdir=DIR is missing: the folder of a run")
    for flag in (ROWS, COLUMNS):
        if flag.value is not None and flag.value < 1:
            raise app.UsageError(f"--{flag.name} must be at least 1, not {flag.value}")
    workdir = Path(os.path.expanduser(cli.WORKDIR.value))
    draw, name = MODES[MODE.value]
    out = Path(os.path.expanduser(OUT.value)) if OUT.value else workdir / name
    if not out.parent.is_dir():
        raise app.UsageError(f"--out={out}: there is no folder {out.parent}")
    # A page is of the folder's files alone: no checkpoint is opened, and no data read.
    of_files = draw is report.write_run_page
    for flag in (STEP, TRUNCATION, ROWS):
        if of_files and flag.value is not None:
            raise app.UsageError(f"--{flag.name} does nothing with --mode={MODE.value}")
    run: Any = workdir if of_files else open_run(workdir)
    try:
        draw(run, out)
    except FloatingPointError as error:
        step = int(run.state.step)
        raise app.UsageError(f"{workdir}, step {step:,}: {error}") from error
    print(out)


def open_run(workdir: Path) -> Run:
    """The run of a folder, at --step.

    Raises:
      app.UsageError: it is no run, or has no such checkpoint.
    """
    config = cli.restore_config(runs.flatten(runs.read_config(workdir)))
    dataset = data.load(config)
    gan = gans.make_gan(config, dataset.spec)
    abstract_state = jax.eval_shape(lambda: gans.init(gan, config, jax.random.key(0)))
    with runs.open_checkpoints(workdir) as checkpoints:
        step = cli.choose_step(checkpoints.steps(), STEP.value)
        state = checkpoints.restore(abstract_state, step)
    return Run(workdir, config, dataset, gan, state)


def grid(run: Run, out: Path) -> None:
    """Samples, a class a row where there are labels."""
    gan = run.gan
    rows = ROWS.value or min(gan.num_classes, MOST_ROWS) or 10
    key, num = jax.random.key(SEED.value), rows * COLUMNS.value
    labels = gans.class_rows(gan, rows, COLUMNS.value)
    given = None if labels is None else np.asarray(labels)
    fake = scores.draw(gan, run.state.average, key, num, given, TRUNCATION.value)
    runs.draw(fake, run.dataset.images, COLUMNS.value).save(out)


# What is made, and the file that it goes into where --out names none.
MODES: dict[str, tuple[Callable[[Any, Path], None], str]] = {
    "grid": (grid, "samples.png"),
    "report": (report.write_run_page, "report.html"),
}
MODE = flags.DEFINE_enum("mode", "grid", list(MODES), "What is drawn.")

if __name__ == "__main__":
    cli.run(main)

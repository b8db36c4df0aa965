"""Scores a run's generator, or images that something else made, beside held-out real ones.

    python evaluate.py --workdir=DIR [--step=N|all] [--num_samples=N] [--repeats=N] [--json]
    python evaluate.py --samples=FOLDER --dataset=mnist

docs/metrics.md says what each score means.
"""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from tqdm import tqdm

import checks
import cli
import data
import devices
import gan as gans
import runs
import scores
from configs import default

STEP, TRUNCATION = cli.checkpoint_flags()  # --step=all is every one
SAMPLES = flags.DEFINE_string("samples", None, "A folder of images, instead of a run's generator.")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "How many; without it as in training.")
REPEATS = flags.DEFINE_integer("repeats", 1, "Independent draws: their mean and deviation.")
JSON = flags.DEFINE_bool("json", False, "One JSON object as the last line of stdout.")
DATASET = flags.DEFINE_string("dataset", None, "What --samples are compared with, without a run.")
RESOLUTION = flags.DEFINE_integer("resolution", None, "Of that data set.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets has its data.")
FEATURES = flags.DEFINE_string("features", None, "Networks to look through: as in features.py.")
INCEPTION_WEIGHTS = flags.DEFINE_string("inception_weights", None, "The file that FID needs.")


def main(argv: list[str]) -> None:
    del argv
    workdir = Path(os.path.expanduser(cli.WORKDIR.value)) if cli.WORKDIR.value else None
    config = read_config(workdir)
    with devices.used(devices.make_mesh()):
        if SAMPLES.value:
            images = data.folder(Path(os.path.expanduser(SAMPLES.value)), None, cached=False).images
            dataset = data.load(config)
            images = as_shape(images, dataset.spec.shape)
            judge = scores.make_judge(config, dataset, len(images))
            scores.check(judge)
            results = [{"samples": SAMPLES.value, **scores.with_floor(judge, images)}]
        elif workdir:
            judge = scores.make_judge(config, data.load(config))
            scores.check(judge)
            results = score_run(config, workdir, judge)
    for result in results:
        print(table(judge, result), end="\n\n")
    if JSON.value:
        print(json.dumps({"evaluations": results} if STEP.value == "all" else results[0]))


def read_config(workdir: Path | None) -> ConfigDict:
    """The config of the run, or of the data set, that the flags name, with what they change in it.

    Raises:
      app.UsageError: flags that do not fit each other, or an impossible value.
    """
    if not workdir and not (SAMPLES.value and DATASET.value):
        raise app.UsageError("--workdir=DIR is missing, or --samples=FOLDER with --dataset=NAME")
    if workdir and (DATASET.value or RESOLUTION.value):
        raise app.UsageError("--dataset and --resolution are for --samples without a --workdir")
    if SAMPLES.value and (
        STEP.value or REPEATS.value != 1 or NUM_SAMPLES.value or TRUNCATION.value is not None
    ):
        raise app.UsageError(
            "--samples are scored as they are: no --step, --repeats, --num_samples, --truncation"
        )
    if REPEATS.value < 1:
        raise app.UsageError(f"--repeats must be at least 1, not {REPEATS.value}")
    if workdir:
        config = cli.restore_config(runs.flatten(runs.read_config(workdir)))
        checks.check_values(config)  # a fork's run may be of what is not here
        if SAMPLES.value:
            config.conditional = False  # nobody says what they were made as
    else:
        config = default.get_config()
        config.dataset = DATASET.value
        config.resolution = RESOLUTION.value
    for field, value in (
        ("data_dir", DATA_DIR.value),
        ("eval_features", FEATURES.value),
        ("eval_samples", NUM_SAMPLES.value),
        ("inception_weights", INCEPTION_WEIGHTS.value),
    ):
        if value is None:
            continue
        config[field] = value
        reason = checks.unused_fields(config).get(field)
        if reason and not field.startswith("eval_"):  # of those, eval_every=0 is no matter here
            raise app.UsageError(f"--{field} does nothing here: {reason}")
    checks.check_values(config)
    return config


def score_run(config: ConfigDict, workdir: Path, judge: scores.Judge) -> list[dict[str, Any]]:
    """The scores of the checkpoints that --step names, the first step first.

    With --repeats=N each is the mean over N draws, its deviation has `_std` at its name's end.
    The first draw is that of the evaluations during training.

    Raises:
      app.UsageError: no run, or no such checkpoint.
    """
    gan = gans.make_gan(config, judge.dataset.spec)
    abstract_state = gans.abstract_state(gan, config)
    results = []
    with runs.open_checkpoints(workdir) as checkpoints:
        for step in chosen_steps(checkpoints.steps()):
            state = checkpoints.restore(abstract_state, step)
            keys = (scores.EVAL_KEY - i for i in range(REPEATS.value))  # far above all steps
            draws = [
                scores.evaluate(
                    judge, gan, state.average, jax.random.fold_in(state.key, key), TRUNCATION.value
                )
                for key in tqdm(keys, f"step {step}", REPEATS.value, disable=None)
            ]
            results.append({"workdir": str(workdir), "step": step, **summarise(draws)})
    return results


def chosen_steps(steps: list[int]) -> list[int]:
    """Those of a run's checkpoints that --step asks for."""
    return steps if STEP.value == "all" else [cli.choose_step(steps, STEP.value)]


def summarise(draws: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure, and its standard deviation where there are several draws.

    A draw without scores, for its samples are not finite, is the answer by itself.
    """
    worst = min(draws, key=lambda draw: draw["eval/num_samples"])
    if len(draws) == 1 or worst["eval/num_samples"] == 0:
        return worst
    summary: dict[str, float] = {"repeats": len(draws)}
    for name in draws[0]:
        values = [draw[name] for draw in draws if name in draw]
        if len(values) < len(draws):  # a class that one draw has too little of
            continue
        summary[name] = statistics.fmean(values)
        if not name.startswith("eval/floor_") and name != "eval/num_samples":
            summary[f"{name}_std"] = statistics.stdev(values)
    return summary


def as_shape(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Images uint8 [N, H, W, C] of `shape`; grey ones are repeated where it has three channels.

    Raises:
      app.UsageError: they have another shape.
    """
    if images.shape[1:3] == shape[:2] and shape[2:] == (3,):
        images = np.broadcast_to(images, (len(images), *shape))
    if images.shape[1:] != shape:
        theirs, ours = ("x".join(map(str, size)) for size in (images.shape[1:], shape))
        raise app.UsageError(f"{SAMPLES.value} has images of {theirs}, and the data set of {ours}")
    return images


def table(judge: scores.Judge, result: dict[str, Any]) -> str:
    """The scores for people: value, deviation, floor, perfect, which way is better."""
    num = int(result["eval/num_samples"])
    what = (
        f"{result['workdir']}, step {result['step']:,}" if "step" in result else result["samples"]
    )
    if num == 0:
        return f"{what}: no scores, because the samples hold NaN or infinite numbers"
    lines = [f"{what}: {num:,} samples"]
    floor_num = int(result.get("eval/floor_num_samples", 0))
    if floor_num:
        lines[0] += f"; the floor is {floor_num:,} held-out real examples"
    if 0 < floor_num < num:
        lines.append("There are fewer held-out examples than samples: the floor is of another size")
    repeated = "repeats" in result
    columns = f"{'':28}{'score':>11}" + (f"{'+-':>11}" if repeated else "")
    lines.append(f"{columns}{'floor':>11}{'perfect':>11}  better")
    num_real = min(len(judge.dataset.images), judge.num_samples)
    for line in scores.compare(result, num_real, judge.num_modes):
        figures = [line.value] + ([line.deviation] if repeated else [])
        figures += [line.floor, line.perfect]
        cells = "".join(f"{'-' if x is None else f'{x:.4g}':>11}" for x in figures)
        lines.append(f"{line.name:28}{cells}  {line.better}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)

"""Oscillation and mode collapse: on a ring and on a grid of Gaussians, and what cures them.

    python studies/collapse.py [--out=docs/studies] [--seeds=3] [--num_steps=5000]

One recipe that loses modes, remedies that change one thing each, and what R3GAN's small preset
changes at once: the paired relativistic loss, both penalties, half the rates, a shorter memory of
Adam and an average. Every run is train.py's, with a folder of its own under --runs, from which a
second start goes on. `collapse.png` has the modes that are found over time, `collapse.gif` what a
run of each draws on the way.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import charts  # noqa: E402
import cli  # noqa: E402
import pictures  # noqa: E402
import runs  # noqa: E402
import tables  # noqa: E402
import train  # noqa: E402

OUT = flags.DEFINE_string("out", "docs/studies", "The folder of figures and tables.")
RUNS = flags.DEFINE_string("runs", "runs/studies/collapse", "The folder of the runs.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each.", lower_bound=1)
NUM_STEPS = flags.DEFINE_integer("num_steps", 5_000, "Of each run.", lower_bound=20)

DATASETS = {"ring": 8, "grid": 25}  # and how many modes they have
RATES = "optimizer.generator.learning_rate", "optimizer.discriminator.learning_rate"
BASE: dict[str, Any] = {"penalties.r1": 0.0, "ema_half_life": 0.0} | dict.fromkeys(RATES, 2e-3)
R1_R2 = {"penalties.r1": 1.0, "penalties.r2": 1.0}
R3GAN: dict[str, Any] = R1_R2 | {"loss": "relativistic_paired", "ema_half_life": 10_000.0}
R3GAN |= dict.fromkeys(RATES, 1e-3)
R3GAN |= {f"optimizer.{player}.b2": 0.99 for player in ("generator", "discriminator")}
CURES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "smaller rates": dict.fromkeys(RATES, 2e-4),
    "two rates": {RATES[0]: 2e-4},
    "average": {"ema_half_life": 20_000.0},
    "packing of 4": {"packing": 4},
    "R1 + R2": R1_R2,
    "as R3GAN": R3GAN,
}
MOMENTS = 50  # that a run is scored at, and pictures there are of it
PANEL = 180  # pixels of a run in the movie


def main(argv: list[str]) -> None:
    del argv
    out, folder = Path(OUT.value), Path(RUNS.value)
    if not out.is_dir():
        raise app.UsageError(f"--out={out}: there is no such folder")
    rows = []
    for dataset in DATASETS:
        for cure in CURES:
            for seed in range(SEEDS.value):
                workdir = run_folder(folder, dataset, cure, seed)
                train.train_and_evaluate(run_config(dataset, cure, seed, NUM_STEPS.value), workdir)
                rows += score_rows(workdir, dataset, cure, seed)
    tables.write_csv(out / "collapse.csv", rows)
    (out / "collapse.md").write_text(table(rows))
    draw(out / "collapse.png", rows)
    movie(out / "collapse.gif", folder)


def run_folder(folder: Path, dataset: str, cure: str, seed: int) -> Path:
    return folder / f"{dataset}-{cure.replace(' ', '_')}-{NUM_STEPS.value}-{seed}"


def run_config(dataset: str, cure: str, seed: int, num_steps: int) -> ConfigDict:
    """Of one run, scored and drawn MOMENTS times."""
    config = cli.load_config("configs/ring.py:mescheder")
    changes = {"dataset": dataset, "seed": seed, "num_steps": num_steps}
    every = num_steps // MOMENTS or 1
    changes |= dict.fromkeys(("log_every", "eval_every", "sample_every"), every)
    changes |= {"checkpoint_every": num_steps, "eval_samples": 2_500}
    config.update_from_flattened_dict(changes | BASE | CURES[cure])
    return config


def score_rows(workdir: Path, dataset: str, cure: str, seed: int) -> list[dict[str, Any]]:
    """Of a run's metrics.jsonl, those that have scores."""
    return [
        {
            "dataset": dataset,
            "cure": cure,
            "seed": seed,
            "step": row["step"],
            "modes": row["eval/modes"],
            "high_quality": f"{row['eval/high_quality']:.4g}",
        }
        for row in runs.read_metrics(workdir)
        if row.get("eval/modes") is not None
    ]


def of(rows: list[dict[str, Any]], dataset: str, cure: str, name: str) -> np.ndarray:
    """A score as [seeds, moments]."""
    own = [row for row in rows if (row["dataset"], row["cure"]) == (dataset, cure)]
    seeds = sorted({row["seed"] for row in own})
    return np.array([[float(r[name]) for r in own if r["seed"] == seed] for seed in seeds])


def draw(file: Path, rows: list[dict[str, Any]]) -> None:
    """Modes over time: a panel a data set and remedy, a line a seed."""
    figure = Figure((15, 4.6), layout="tight")
    axes = figure.subplots(len(DATASETS), len(CURES), sharex=True, sharey="row", squeeze=False)
    for (dataset, num), line in zip(DATASETS.items(), axes):
        steps = sorted({row["step"] for row in rows if row["dataset"] == dataset})
        for cure, axis in zip(CURES, line):
            for modes, colour in zip(of(rows, dataset, cure, "modes"), charts.COLOURS):
                axis.plot(steps, modes, color=colour, linewidth=1)
            axis.axhline(num, color="#bbbbbb", linestyle="--", linewidth=0.8)
            axis.set_title(f"{dataset}: {cure}", fontsize=9)
            axis.set_ylim(0, num * 1.08)
        line[0].set_ylabel("modes found")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.savefig(file, dpi=100)


def movie(file: Path, folder: Path) -> None:
    """What the first seed of each remedy draws: a row a data set, a column a remedy."""
    frames = []
    drawn = {
        (dataset, cure): runs.sample_paths(run_folder(folder, dataset, cure, 0))
        for dataset in DATASETS
        for cure in CURES
    }
    for step in next(iter(drawn.values())):
        frame = Image.new("RGB", (PANEL * len(CURES), (PANEL + 18) * len(DATASETS)), "white")
        words = ImageDraw.Draw(frame)
        for row, dataset in enumerate(DATASETS):
            for column, cure in enumerate(CURES):
                panel = Image.open(drawn[dataset, cure][step]).convert("RGB").resize((PANEL, PANEL))
                left, top = PANEL * column, (PANEL + 18) * row
                words.text((left + 6, top + 4), cure, fill="black")
                frame.paste(panel, (left, top + 18))
        words.text((PANEL * len(CURES) - 70, 4), f"step {step:,}", fill="black")
        frames.append(frame.quantize(16))
    pictures.save_gif(frames, file, 120)


def table(rows: list[dict[str, Any]]) -> str:
    """At the end, and over the second half of the time: what is found, and what is lost again."""
    heads = ["data", "remedy", "modes at the end", "high quality", "fewest modes later on", "lost"]
    lines = []
    for dataset in DATASETS:
        for cure in CURES:
            modes = of(rows, dataset, cure, "modes")
            quality = of(rows, dataset, cure, "high_quality")
            later = modes[:, modes.shape[1] // 2 :]
            lost = -np.minimum(np.diff(later, axis=1), 0).sum(axis=1)
            figures = (modes[:, -1], quality[:, -1], later.min(axis=1), lost)
            lines.append([dataset, cure, *(tables.spread(list(map(float, x))) for x in figures)])
    return tables.markdown(heads, lines)


if __name__ == "__main__":
    cli.run(main)

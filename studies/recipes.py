"""Compares recipes: trains each with several seeds, and writes one table of the last scores.

    python studies/recipes.py --config=configs/ring.py --recipe=goodfellow --recipe=mescheder \\
        --out=ring.md
    python studies/recipes.py --config=configs/mnist.py --recipe=dcgan --recipe=r3gan \\
        --minutes=10 --seeds=3 --out=mnist.md
    python studies/recipes.py --config=configs/stacked_mnist.py --recipe=r3gan \\
        --recipe=r3gan,loss=non_saturating --recipe=r3gan,penalties.r2=0 --seeds=1 --out=stacked.md

Nothing here trains: each run is the command that anyone would type, in a folder of its own, and so
is its evaluation. Beside the table, a CSV file has a line a run; a second start of the same command
goes on where the first has stopped.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).parent.parent
NAMES = {
    "eval/modes": "modes",
    "eval/mode_kl": "KL",
    "eval/high_quality": "high quality",
    "eval/fd_classifier": "fd_classifier",
    "eval/precision_classifier": "precision",
    "eval/recall_classifier": "recall",
}

PAGE = flags.DEFINE_string("config", None, "A config page, such as configs/ring.py.", required=True)
RECIPES = flags.DEFINE_multi_string(
    "recipe", None, "RECIPE[,FIELD=VALUE...]; several times.", required=True
)
OUT = flags.DEFINE_string("out", None, "The table's file; with .csv the runs'.", required=True)
RUNS = flags.DEFINE_string("runs", "runs", "The folder of the runs.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Runs of each recipe.")
FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "The first of the seeds.")
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE of every run; several times.")
MINUTES = flags.DEFINE_float(
    "minutes", None, "Of each run, from when it begins to train; without it num_steps."
)


def main(argv: list[str]) -> None:
    del argv
    out = Path(OUT.value).absolute()
    if not out.parent.is_dir():
        raise app.UsageError(f"--out={out}: there is no folder {out.parent}")
    table = out.with_suffix(".csv")
    rows = read(table)
    for seed in range(FIRST_SEED.value, FIRST_SEED.value + SEEDS.value):
        for recipe in RECIPES.value:
            if not any((row["recipe"], row["seed"]) == (recipe, str(seed)) for row in rows):
                rows.append(train_and_score(recipe, seed))
                write(table, rows)
                print(rows[-1], flush=True)
    out.write_text(markdown(rows))


def train_and_score(recipe: str, seed: int) -> dict[str, str]:
    """One run and its evaluation, as a line of the table."""
    name, *changes = recipe.split(",")
    folder = "-".join([Path(PAGE.value).stem, *recipe.split(","), str(seed)])
    workdir = Path(RUNS.value).absolute() / folder
    words = [f"--config={PAGE.value}:{name}", f"--workdir={workdir}", f"--config.seed={seed}"]
    words += [f"--config.{change}" for change in SET.value + changes]
    if MINUTES.value:
        shutil.rmtree(workdir, ignore_errors=True)  # a run that was cut off has had its time
        words += [f"--config.num_steps={10**9}", "--config.sample_every=0"]
        words += [f"--config.eval_every={10**9}"]  # never, and what scores need is no mistake
    process = subprocess.Popen(
        [sys.executable, "-u", "train.py", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    # SIGTERM is an orderly stop: the state is saved.
    stop = threading.Timer(60 * (MINUTES.value or 0), process.terminate)
    start = time.perf_counter()
    try:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("Training in"):
                start = time.perf_counter()
                if MINUTES.value:
                    stop.start()
        code = process.wait() % (128 + signal.SIGTERM)
    finally:
        stop.cancel()
        process.terminate()
    if code:
        raise SystemExit(f"{recipe}, seed {seed}: train.py ended with exit code {code}")
    seconds = time.perf_counter() - start
    words = [f"--workdir={workdir}", "--json"]
    scored = subprocess.run(
        [sys.executable, "evaluate.py", *words], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    scores = json.loads(scored.stdout.splitlines()[-1])
    batch_size = json.loads((workdir / "config.json").read_text())["batch_size"]
    found = {name: scores[name] for name in (*NAMES, *map(floor, NAMES)) if name in scores}
    row = {
        "recipe": recipe,
        "seed": seed,
        "images": scores["step"] * batch_size,
        "seconds": round(seconds),
        "samples": int(scores["eval/num_samples"]),
        **found,
    }
    return {name: str(value) for name, value in row.items()}


def floor(name: str) -> str:
    """What a score of held-out real examples is called."""
    return name.replace("eval/", "eval/floor_")


def read(table: Path) -> list[dict[str, str]]:
    """The runs so far."""
    if not table.exists():
        return []
    with table.open() as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def write(table: Path, rows: list[dict[str, str]]) -> None:
    """All runs, whole or not at all."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    part = table.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, table)


def markdown(rows: list[dict[str, str]]) -> str:
    """A line a recipe: mean and standard deviation over its seeds, and the floor.

    Runs whose samples were not finite have no scores; they are counted.
    """
    found = [name for name in NAMES if any(name in row for row in rows)]
    lines = [
        f"| recipe | seeds | images | seconds | {' | '.join(NAMES[name] for name in found)} |",
        f"|{'---|' * (4 + len(found))}",
    ]
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        scored = [row for row in own if row["samples"] != "0"]
        lost = len(own) - len(scored)
        cells = [
            f"`{recipe}`",
            f"{len(own)}" + (f", {lost} diverged" if lost else ""),
            spread([float(row["images"]) for row in own], ",.0f"),
            spread([float(row["seconds"]) for row in own], ",.0f"),
        ]
        cells += [spread([float(r[name]) for r in scored if name in r]) for name in found]
        lines.append(f"| {' | '.join(cells)} |")
    floors = [
        next((f"{float(row[floor(name)]):.3g}" for row in rows if floor(name) in row), "")
        for name in found
    ]
    lines.append(f"| real, held out | | | | {' | '.join(floors)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], form: str = ".3g") -> str:
    """Mean and standard deviation; of large or single numbers the mean."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):{form}}"
    if len(values) == 1 or form != ".3g":
        return mean
    return f"{mean} ± {statistics.stdev(values):.2g}"


if __name__ == "__main__":
    app.run(main)

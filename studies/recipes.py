"""Compares recipes: trains each with several seeds, and writes one table of the last scores.

    python studies/recipes.py --config=configs/ring.py --recipe=goodfellow --recipe=mescheder \\
        --out=ring.md
    python studies/recipes.py --config=configs/mnist.py --recipe=dcgan --recipe=r3gan \\
        --minutes=10 --seeds=3 --out=mnist.md
    python studies/recipes.py --config=configs/stacked_mnist.py --recipe=r3gan \\
        --recipe=r3gan,loss=non_saturating --recipe=r3gan,penalties.r2=0,penalties.r2_end=0 \\
        --seeds=1 --out=stacked.md

Each run is what `train.py` would make of the same fields, in a folder of its own, scored once, at
its end (`--set=eval_every=1000` scores it on the way, too). A second start of the same command goes
on where the first has stopped; several at once, of other recipes or seeds, share a machine, and a
last one that names them all writes the table, and a CSV file with a line a run.

With `--minutes` a run has as many steps as its recipe was measured to take in that time: the rate
is taken once, on a machine that should be quiet, and kept beside the runs. From then on the number
of steps is fixed, and other work on the machine does not change what is compared.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import sys
import time
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import ConfigDict

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import checks  # noqa: E402
import cli  # noqa: E402
import gan as gans  # noqa: E402
import scores  # noqa: E402
import starts  # noqa: E402
import tables  # noqa: E402
import train  # noqa: E402

NAMES = {
    "eval/modes": "modes",
    "eval/mode_kl": "KL",
    "eval/high_quality": "high quality",
    "eval/fd_classifier": "fd_classifier",
    "eval/precision_classifier": "precision",
    "eval/recall_classifier": "recall",
}
NEVER = 10**9
MEASURED = 20.0  # seconds of training that a recipe's rate is of, if --minutes are no fewer

PAGE = flags.DEFINE_string("config", None, "A config page, such as configs/ring.py.", required=True)
RECIPES = flags.DEFINE_multi_string(
    "recipe", None, "RECIPE[,FIELD=VALUE...]; several times.", required=True
)
OUT = flags.DEFINE_string("out", None, "The table's file; with .csv the runs'.", required=True)
RUNS = flags.DEFINE_string("runs", "runs", "The folder of the runs.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Runs of each recipe.", lower_bound=1)
FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "The first of the seeds.")
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE of every run; several times.")
MINUTES = flags.DEFINE_float(
    "minutes", None, "What each run would take after its first step; without it num_steps.", 0.0
)


def main(argv: list[str]) -> None:
    del argv
    out = Path(OUT.value).absolute()
    if not out.parent.is_dir():
        raise app.UsageError(f"--out={out}: there is no folder {out.parent}")
    if out.is_dir():
        raise app.UsageError(f"--out={out}: it is a folder, not a file")
    if out.suffix == ".csv":
        raise app.UsageError(f"--out={out}: the runs' file is called so, beside the table's")
    seeds = range(FIRST_SEED.value, FIRST_SEED.value + SEEDS.value)
    ends = seeds[0], seeds[-1]
    results = [path(recipe, str(seed), ".json") for recipe in RECIPES.value for seed in seeds]
    done = all(result.exists() for result in results)
    check([read_config(recipe, seed) for recipe in RECIPES.value for seed in ends], done)
    if MINUTES.value:
        for recipe in RECIPES.value:
            print(f"{recipe}: {rate(recipe, MINUTES.value):.3g} steps/s", flush=True)
    rows = []
    for recipe in RECIPES.value:  # seeds share a compiled step
        for seed in seeds:
            rows.append(train_and_score(recipe, seed))
            print(rows[-1], flush=True)
    tables.write_csv(out.with_suffix(".csv"), rows)
    out.write_text(table(rows))


def check(configs: list[ConfigDict], done: bool) -> None:
    """All can be trained, by one run a seed, and compared: on the same data, by the same scores.

    No mistake is to wait for its turn. Where all is done the table needs no data.

    Raises:
      app.UsageError: they cannot.
    """
    for field in (*starts.DATA_FIELDS, "population"):
        values = list(dict.fromkeys(str(config[field]) for config in configs))
        if len(values) > 1 and field != "conditional":
            raise app.UsageError(f"recipes are compared by one {field}, not {', '.join(values)}")
    if configs[0].population > 1:
        raise app.UsageError("population is not for this study: --seeds=N")
    for config in [] if done else configs:
        starts.prepare(config, prepared(config.conditional))


def read_config(recipe: str, seed: int) -> ConfigDict:
    """The config of a run.

    Raises:
      app.UsageError: a field or a value is impossible.
    """
    name, *changes = recipe.split(",")
    changes = [f"seed={seed}", f"eval_every={NEVER}", *SET.value, *changes]  # scored at its end
    if MINUTES.value:
        changes += [f"num_steps={NEVER}", "sample_every=0"]  # until the rate is known
    page = f"{PAGE.value}:{name}"
    config = cli.with_overrides(cli.load_config(page), [f"--config.{c}" for c in changes])
    checks.check_values(config)
    fields = [change.partition("=")[0] for change in changes]
    checks.check_use(config, cli.load_config(page), fields)
    return config


def train_and_score(recipe: str, seed: int) -> dict[str, str]:
    """One run and its scores, as a line of the table; what an earlier start has done is read.

    Its `seconds` are of training after the first step: with `--minutes` at the measured rate, else
    of the last start, where there were several.
    """
    result = path(recipe, str(seed), ".json")
    if result.exists():
        return json.loads(result.read_text())
    config = read_config(recipe, seed)
    if MINUTES.value:
        config.num_steps = 1 + round(60 * MINUTES.value * rate(recipe, MINUTES.value))
    state, asked = train_for(config, path(recipe, str(seed), ""))
    seconds = asked[-1] - asked[min(1, len(asked) - 1)]
    if MINUTES.value:
        seconds = (config.num_steps - 1) / rate(recipe, MINUTES.value)
    _, gan, judge = starts.prepare(config, prepared(config.conditional))
    eval_key = jax.random.fold_in(state.key, scores.EVAL_KEY)
    found = scores.evaluate(judge, gan, state.average, eval_key)
    row = {
        "recipe": recipe,
        "seed": seed,
        "images": int(state.step) * config.batch_size,
        "seconds": round(seconds),
        "samples": int(found["eval/num_samples"]),
        **{name: found[name] for name in (*NAMES, *map(floor, NAMES)) if name in found},
    }
    row = {name: str(value) for name, value in row.items()}
    result.write_text(json.dumps(row))
    return row


def rate(recipe: str, minutes: float) -> float:
    """Steps a second, log lines included; measured only once, in so many minutes or MEASURED."""
    result = path(recipe, "rate", ".json")
    if not result.exists():
        workdir = path(recipe, "rate", "")
        shutil.rmtree(workdir, ignore_errors=True)
        state, asked = train_for(read_config(recipe, 0), workdir, min(MEASURED, 60 * minutes))
        calls = len(asked) - 1  # the first is not timed, and the last has not ended
        steps = int(state.step) * (calls - 2) / calls
        result.write_text(json.dumps({"steps": steps, "seconds": asked[-1] - asked[1]}))
    found = json.loads(result.read_text())
    return found["steps"] / found["seconds"]


def train_for(
    config: ConfigDict, workdir: Path, seconds: float = math.inf
) -> tuple[gans.GanState, list[float]]:
    """Trains to the end, or for so long after the first call.

    Returns:
      The last state, and when the loop has asked whether to go on: before the first call and after
      each, where all calls but the last one have ended.
    """
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.perf_counter())
        return len(asked) > 3 and asked[-1] - asked[1] > seconds

    state = train.train_and_evaluate(config, workdir, stop=stop)
    return state, asked


def path(recipe: str, run: str, suffix: str) -> Path:
    """A run's folder, or the file beside it."""
    words = [Path(PAGE.value).stem, *recipe.split(","), *SET.value, run]
    if MINUTES.value and run != "rate":
        words.insert(-1, f"{MINUTES.value:g}min")
    return Path(RUNS.value) / ("-".join(words).replace("/", "_") + suffix)


@functools.cache
def prepared(conditional: bool) -> starts.Prepared:
    """What all such runs are compared with: it reads the data, and looks at it, once."""
    config = next(
        config for r in RECIPES.value if (config := read_config(r, 0)).conditional == conditional
    )
    return starts.prepare(config)


def floor(name: str) -> str:
    """What a score of held-out real examples is called."""
    return name.replace("eval/", "eval/floor_")


def table(rows: list[dict[str, str]]) -> str:
    """A line a recipe: mean and standard deviation over its seeds, and the floor.

    Runs whose samples were not finite have no scores; they are counted.
    """
    found = [name for name in NAMES if any(name in row for row in rows)]
    lines = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        scored = [row for row in own if row["samples"] != "0"]
        lost = len(own) - len(scored)
        cells = [
            f"`{recipe}`",
            f"{len(own)}" + (f", {lost} diverged" if lost else ""),
            tables.spread([float(row["images"]) for row in own], ",.0f"),
            tables.spread([float(row["seconds"]) for row in own], ",.0f"),
        ]
        cells += [tables.spread([float(r[name]) for r in scored if name in r]) for name in found]
        lines.append(cells)
    floors = [
        next((f"{float(row[floor(name)]):.3g}" for row in rows if floor(name) in row), "")
        for name in found
    ]
    lines.append(["real, held out", "", "", "", *floors])
    heads = ["recipe", "seeds", "images", "seconds", *(NAMES[name] for name in found)]
    return tables.markdown(heads, lines)


if __name__ == "__main__":
    cli.run(main)

"""What gradient reaches G when D is ahead? By loss, depth of D, and size of the batch.

    python studies/vanishing.py [--out=docs/studies] [--seeds=3] [--num_steps=1000]

After Arjovsky and Bottou 2017, figure 2: a generator of MNIST's digits that has learnt for a while
is held fixed, a new D learns to tell its images from real ones, and after each of D's steps the
norm of G's gradient is taken. G is held by a learning rate of 0: each step is `gan.update`, and the
norm is the `g_grad_norm` that every run logs.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import charts  # noqa: E402
import cli  # noqa: E402
import data  # noqa: E402
import gan as gans  # noqa: E402
import starts  # noqa: E402
import tables  # noqa: E402

OUT = flags.DEFINE_string("out", "docs/studies", "The folder of figures and tables.")
PAGE = flags.DEFINE_string("page", "configs/mnist.py", "Whose data are learnt.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Of both networks and of the data's order.", 1)
NUM_STEPS = flags.DEFINE_integer("num_steps", 1_000, "That D is ahead.", lower_bound=1)

GAMES: dict[str, dict[str, Any]] = {
    "minimax": {"loss": "minimax"},
    "non_saturating": {"loss": "non_saturating"},
    "wasserstein + GP": {"loss": "wasserstein", "penalties.gp": 10.0},
    "relativistic_paired + R1 + R2": {
        "loss": "relativistic_paired",
        "penalties.r1": 3.0,
        "penalties.r2": 3.0,
    },
}
AGES = (100, 5_000)  # steps that G has learnt
BATCH_SIZE = 128


class Setting(NamedTuple):
    """What D is, and what it looks at: micro-batches of BATCH_SIZE."""

    depth: int
    accumulate: int

    def __str__(self) -> str:
        return f"D of {self.depth} layers, batch {self.accumulate * BATCH_SIZE}"


SETTINGS = (Setting(2, 1), Setting(1, 1), Setting(4, 1), Setting(2, 4))


def main(argv: list[str]) -> None:
    del argv
    out = Path(OUT.value)
    if not out.is_dir():
        raise app.UsageError(f"--out={out}: there is no such folder")
    dataset = data.load(game_config("minimax", SETTINGS[0]))
    norms: dict[tuple[Setting, int, str], np.ndarray] = {}  # [seeds, num_steps]
    accuracies = {}
    generators = [learn(dataset, seed) for seed in range(SEEDS.value)]
    for setting in SETTINGS:
        for age in AGES:
            for game in GAMES:
                found = [
                    ahead(game, setting, dataset, by_age[age], seed, NUM_STEPS.value)
                    for seed, by_age in enumerate(generators)
                ]
                case = setting, age, game
                norms[case] = np.stack([metrics["g_grad_norm"] for metrics in found])
                accuracies[case] = np.stack([metrics["d_accuracy"] for metrics in found])
                first, last = norms[case][:, 0].mean(), norms[case][:, -1].mean()
                print(f"{setting}, G after {age:,}, {game}: {first:.3g} to {last:.3g}", flush=True)
    tables.write_csv(out / "vanishing.csv", rows(norms, accuracies))
    draw(out / "vanishing.png", norms)
    (out / "vanishing.md").write_text(table(norms, accuracies))


def game_config(game: str, setting: Setting, seed: int = 0) -> ConfigDict:
    """Of a GAN with D's depth and batch as set."""
    config = cli.load_config(f"{PAGE.value}:mescheder")
    changes = {"seed": seed, "penalties.r1": 0.0, "discriminator.depth": setting.depth}
    changes |= {"accumulate": setting.accumulate, "batch_size": setting.accumulate * BATCH_SIZE}
    config.update_from_flattened_dict(changes | GAMES[game])
    return config


def learn(dataset: data.Dataset, seed: int) -> dict[int, gans.Player]:
    """A generator that learns by mescheder's recipe, as it is at every age."""
    config = cli.load_config(f"{PAGE.value}:mescheder")
    config.seed, config.batch_size = seed, BATCH_SIZE
    gan = gans.make_gan(config, dataset.spec)
    state = gans.init(gan, config, jax.random.key(seed))
    found = {}
    for first, age in zip((0, *AGES), AGES):
        state, _ = steps(gan, state, *examples(gan, state, dataset, first, age))
        found[age] = state.generator
    return found


def ahead(
    game: str,
    setting: Setting,
    dataset: data.Dataset,
    generator: gans.Player,
    seed: int,
    num_steps: int,
) -> dict[str, np.ndarray]:
    """A new D learns against a generator that is held; every step's metrics, [num_steps] each."""
    config = game_config(game, setting, seed)
    config.optimizer.generator.learning_rate = 0.0
    gan = gans.make_gan(config, dataset.spec)
    state = gans.init(gan, config, jax.random.key(1_000 + seed))
    state = state.replace(
        generator=state.generator.replace(params=generator.params, variables=generator.variables)
    )
    _, metrics = steps(gan, state, *examples(gan, state, dataset, 0, num_steps))
    return {name: np.asarray(values) for name, values in metrics.items()}


@functools.partial(jax.jit, static_argnums=0)
def steps(
    gan: gans.Gan, state: gans.GanState, real: dict[str, jax.Array], indices: jax.Array
) -> tuple[gans.GanState, dict[str, jax.Array]]:
    """`gan.update` on the examples at each of the indices, and the metrics of every step."""
    return jax.lax.scan(lambda s, i: gans.update(gan, s, data.take(real, i)), state, indices)


def examples(
    gan: gans.Gan, state: gans.GanState, dataset: data.Dataset, first: int, end: int
) -> tuple[dict[str, jax.Array], np.ndarray]:
    """All there are, and which of them the steps from first to end take, as in train.py."""
    key = jax.random.fold_in(state.key, starts.ORDER_KEY)
    indices = data.make_indices(key, len(dataset.images), gans.batch_shape(gan))
    return {"images": jnp.asarray(dataset.images)}, indices(range(first, end))


def moments(num_steps: int) -> list[int]:
    """Which of D's steps are written down: the first, about ten a factor of ten, and the last."""
    spaced = np.geomspace(1, max(num_steps - 1, 1), 31).round().astype(int)
    return sorted({0, *(int(step) for step in spaced if step < num_steps)})


def rows(norms: dict, accuracies: dict) -> list[dict[str, Any]]:
    """A row a case, seed and moment."""
    return [
        {
            "depth": setting.depth,
            "accumulate": setting.accumulate,
            "batch_size": setting.accumulate * BATCH_SIZE,
            "generator_steps": age,
            "game": game,
            "seed": seed,
            "discriminator_steps": step + 1,
            "g_grad_norm": f"{norm[step]:.6g}",
            "d_accuracy": f"{accuracy[step]:.4g}",
        }
        for setting, age, game in norms
        for seed, (norm, accuracy) in enumerate(
            zip(norms[setting, age, game], accuracies[setting, age, game])
        )
        for step in moments(len(norm))
    ]


def smoothed(norms: np.ndarray) -> np.ndarray:
    """The geometric mean over the nine steps around each, [seeds, steps]: batches are noisy."""
    logs = np.pad(np.log(np.maximum(norms, 1e-20)), ((0, 0), (4, 4)), mode="edge")
    kernel = np.full(9, 1 / 9)
    return np.exp(np.stack([np.convolve(row, kernel, mode="valid") for row in logs]))


def draw(file: Path, norms: dict[tuple[Setting, int, str], np.ndarray]) -> None:
    """A panel a setting and age: the norm over D's steps, mean and range over the seeds."""
    figure = Figure((13, 6.5), layout="tight")
    axes = figure.subplots(len(AGES), len(SETTINGS), sharex=True, sharey=True, squeeze=False)
    for age, line in zip(AGES, axes):
        for setting, axis in zip(SETTINGS, line):
            for game, colour in zip(GAMES, charts.COLOURS):
                curves = smoothed(norms[setting, age, game])
                x = 1 + np.arange(curves.shape[1])
                axis.loglog(x, np.exp(np.log(curves).mean(axis=0)), color=colour, label=game)
                low, high = curves.min(axis=0), curves.max(axis=0)
                axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.set_title(f"{setting}\nG after {age:,} steps", fontsize=9)
        line[0].set_ylabel("norm of G's gradient")
    for axis in axes[-1]:
        axis.set_xlabel("D's steps")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(file, dpi=100)


def table(norms: dict, accuracies: dict) -> str:
    """A line a case: the norm at first and at last, their ratio, and how much D tells right."""
    heads = ["D, batch", "G's steps", "game", "first", "last", "last / first", "D's accuracy"]
    lines = []
    for (setting, age, game), found in norms.items():
        curves = smoothed(found)
        first, last = found[:, 0], curves[:, -1]
        cells = [tables.spread(list(x)) for x in (first, last, last / first)]
        accuracy = tables.spread(list(accuracies[setting, age, game][:, -20:].mean(axis=1)))
        lines.append([str(setting), f"{age:,}", game, *cells, accuracy])
    return tables.markdown(heads, lines)


if __name__ == "__main__":
    cli.run(main)

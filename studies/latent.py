"""What did it learn? Directions in latent space, what each changes, inversion, and memory.

    python studies/latent.py
    python studies/latent.py --page=configs/digits.py --num_steps=500 --seeds=1 --out=/tmp

Of each seed's generator: closed-form directions (SeFa), principal ones (GANSpace) and random ones
for comparison. A thousand latents are moved along each, by a deviation either way, and measured
before and after: does the data set's classifier see another class, and what happens to five simple
figures of an image (STATISTICS), in their deviations over real images. Then real test images are
inverted, beside the generator's own, and samples' distances to the nearest training image are held
against those of test images. `latent.png` has all of it, `latent_directions.png` the images that
move, `latent.gif` a walk.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import charts  # noqa: E402
import cli  # noqa: E402
import data  # noqa: E402
import features  # noqa: E402
import gan as gans  # noqa: E402
import latents  # noqa: E402
import metrics  # noqa: E402
import pictures  # noqa: E402
import starts  # noqa: E402
import tables  # noqa: E402
import train  # noqa: E402

OUT = flags.DEFINE_string("out", "docs/studies", "The folder of figures and tables.")
RUNS = flags.DEFINE_string("runs", "runs/studies", "The folder of the runs.")
PAGE = flags.DEFINE_string("page", "configs/mnist.py", "Whose images are learnt.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Generators that are looked at.", lower_bound=1)
NUM_STEPS = flags.DEFINE_integer("num_steps", 5_000, "Of each run.", lower_bound=1)

DIRECTIONS = 5  # of a kind
SAMPLES = 1_000  # that are moved
MOVE = 1.0  # deviations of a latent, either way
SHOWN_MOVES = (-3, -2, -1, 0, 1, 2, 3)
INVERTED = 16
FRAMES, ANCHORS = 48, 4  # of the walk


class Moved(NamedTuple):
    """What moving along one direction does, on average over samples.

    Attributes:
      kind, number: of the direction.
      flips: share of samples that the classifier sees in two classes at the two ends.
      changes: by the name in STATISTICS, the change from one end to the other, in deviations.
    """

    kind: str
    number: int
    flips: float
    changes: dict[str, float]


def ink(images: np.ndarray) -> np.ndarray:
    """The mean of the pixels: [N, H, W] in [0, 1] to [N], as of all that follow."""
    return images.mean(axis=(1, 2))


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances down and across, and the covariance, of where the ink is, in pixels: [N] each."""
    height, width = images.shape[1:]
    total = np.maximum(images.sum(axis=(1, 2)), 1e-6)
    rows, columns = np.arange(height, dtype=float), np.arange(width, dtype=float)
    down = rows - (images.sum(axis=2) @ rows / total)[:, None]
    across = columns - (images.sum(axis=1) @ columns / total)[:, None]
    variance_down = np.einsum("nhw,nh->n", images, down**2) / total
    variance_across = np.einsum("nhw,nw->n", images, across**2) / total
    covariance = np.einsum("nhw,nh,nw->n", images, down, across) / total
    return variance_down, variance_across, covariance


def height(images: np.ndarray) -> np.ndarray:
    """The deviation of the ink from its middle, down."""
    return np.sqrt(_moments(images)[0])


def width(images: np.ndarray) -> np.ndarray:
    """The same, across."""
    return np.sqrt(_moments(images)[1])


def slant(images: np.ndarray) -> np.ndarray:
    """How far strokes lean to the right: pixels across for a pixel up."""
    down, _, covariance = _moments(images)
    return -covariance / np.maximum(down, 1e-6)


def thickness(images: np.ndarray) -> np.ndarray:
    """Ink for a unit of its edge: of a long stroke about half its width, in pixels."""
    edges = np.abs(np.diff(images, axis=1)).sum(axis=(1, 2))
    edges += np.abs(np.diff(images, axis=2)).sum(axis=(1, 2))
    return images.sum(axis=(1, 2)) / np.maximum(edges, 1e-6)


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    f.__name__: f for f in (ink, thickness, slant, height, width)
}


def main(argv: list[str]) -> None:
    del argv
    out = Path(OUT.value)
    if not out.is_dir():
        raise app.UsageError(f"--out={out}: there is no such folder")
    moves, figures = [], []
    for seed in range(SEEDS.value):
        config = cli.load_config(f"{PAGE.value}:mescheder")
        config.seed, config.num_steps, config.eval_every = seed, NUM_STEPS.value, 0
        prepared = starts.prepare(config)
        look = features.classifier(config.dataset, prepared.dataset.spec.shape)
        name = f"latent-{Path(PAGE.value).stem}-{NUM_STEPS.value}-{seed}"
        state = train.train_and_evaluate(config, Path(RUNS.value) / name)
        gan, key = prepared.gan, jax.random.key(1_000 + seed)
        found = directions(gan, state.average, key)
        moves += [
            {"seed": seed, **move._asdict()}
            for move in measure(gan, state.average, found, look, prepared.dataset.images, key)
        ]
        held_out = data.load_held_out(config)
        assert held_out is not None  # of every data set that has a classifier
        figures.append(
            {"seed": seed}
            | inverted(gan, state.average, look, held_out.images, key)
            | remembered(gan, state.average, look, prepared.dataset.images, held_out.images, key)
        )
        print(figures[-1], flush=True)
        if seed == 0:
            show(gan, state.average, found, key).save(out / "latent_directions.png")
            walk(gan, state.average, key, out / "latent.gif")
    rows = [{**{k: v for k, v in m.items() if k != "changes"}, **m["changes"]} for m in moves]
    tables.write_csv(out / "latent.csv", rows + figures)
    draw(rows).savefig(out / "latent.png", dpi=100)
    (out / "latent.md").write_text(f"{moves_table(rows)}\n{figures_table(figures)}")


def directions(gan: gans.Gan, network: gans.Network, key: jax.Array) -> dict[str, np.ndarray]:
    """Unit vectors [DIRECTIONS, latent_dim] by kind."""
    first, second = jax.random.split(key)
    random = np.asarray(gans.draw_latents(gan, first, DIRECTIONS))
    weight = latents.first_weight(gan, network)
    principal = latents.principal_directions(gan, network, second, DIRECTIONS)
    return {
        "SeFa": latents.semantic_directions(weight).vectors[:DIRECTIONS],
        "GANSpace": principal.vectors[:DIRECTIONS],
        "random": random / np.linalg.norm(random, axis=1, keepdims=True),
    }


def measure(
    gan: gans.Gan,
    network: gans.Network,
    found: dict[str, np.ndarray],
    look: features.View,
    real: np.ndarray,
    key: jax.Array,
) -> list[Moved]:
    """What each direction changes; deviations are those of as many real images."""
    drawn = np.asarray(gans.draw_latents(gan, jax.random.fold_in(key, 1), SAMPLES))
    usual = {name: f(grey(real[:SAMPLES])).std() for name, f in STATISTICS.items()}
    moves = []
    for kind, vectors in found.items():
        for number, vector in enumerate(vectors):
            ends = [latents.render(gan, network, drawn + side * MOVE * vector) for side in (-1, 1)]
            classes = [features.compute(look, images)[1].argmax(axis=1) for images in ends]
            changes = {
                name: float(np.mean(f(grey(ends[1])) - f(grey(ends[0]))) / usual[name])
                for name, f in STATISTICS.items()
            }
            flips = float(np.mean(classes[0] != classes[1]))
            moves.append(Moved(kind, number + 1, flips, changes))
    return moves


def grey(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] as [N, H, W] in [0, 1]."""
    return images.mean(axis=3) / 255


def inverted(
    gan: gans.Gan,
    network: gans.Network,
    look: features.View,
    held_out: np.ndarray,
    key: jax.Array,
) -> dict[str, float]:
    """Errors of pixels, root mean square of a range of 1, of test images and of its own."""
    drawn = gans.draw_latents(gan, jax.random.fold_in(key, 2), INVERTED)
    own = latents.render(gan, network, drawn)
    targets = np.concatenate([held_out[:INVERTED], own])
    embed = latents.make_embedding(targets, look.apply)
    found = latents.invert(gan, network, embed, targets, None, jax.random.fold_in(key, 3))
    errors = {}
    for name, chosen in (("inversion", found.latents), ("nearest_random", found.nearest)):
        error = latents.pixel_error(latents.render(gan, network, chosen), targets)
        errors[f"{name}_of_test_images"] = float(error[:INVERTED].mean())
        errors[f"{name}_of_its_own"] = float(error[INVERTED:].mean())
    norms = np.linalg.norm(found.latents[:INVERTED], axis=1)
    return errors | {"norm_of_inverted_latents": float(norms.mean())}


def remembered(
    gan: gans.Gan,
    network: gans.Network,
    look: features.View,
    real: np.ndarray,
    held_out: np.ndarray,
    key: jax.Array,
) -> dict[str, float]:
    """Median distances to the nearest training image, of samples and of test images."""
    drawn = gans.draw_latents(gan, jax.random.fold_in(key, 4), min(SAMPLES, len(held_out)))
    fake, others = latents.render(gan, network, drawn), held_out[: len(drawn)]
    unit = np.sqrt(fake[0].size) * 255
    found = {}
    for view, (a, b, c), scale in (
        ("pixels", (real, fake, others), unit),
        ("classifier", [features.compute(look, x)[0] for x in (real, fake, others)], 1.0),
    ):
        for name, samples in (("samples", b), ("test_images", c)):
            _, distances = metrics.nearest(samples, a)
            found[f"nearest_{view}_{name}"] = float(np.median(distances) / scale)
    return found


def show(gan: gans.Gan, network: gans.Network, found: dict[str, np.ndarray], key: jax.Array) -> Any:
    """One sample moved along the first three directions of each kind."""
    start = np.asarray(gans.draw_latents(gan, jax.random.fold_in(key, 5), 1))
    names = [f"{kind} {i + 1}" for kind in found for i in range(3)]
    vectors = np.concatenate([vectors[:3] for vectors in found.values()])
    moved = start + np.array(SHOWN_MOVES)[:, None] * vectors[:, None]
    images = latents.render(gan, network, moved.reshape(-1, gan.latent_dim))
    images = images.reshape(len(vectors), len(SHOWN_MOVES), *images.shape[1:])
    heads = [f"{move:+d} sd" if move else "0" for move in SHOWN_MOVES]
    return pictures.table(images, "One sample, moved along directions", names, heads)


def walk(gan: gans.Gan, network: gans.Network, key: jax.Array, file: Path) -> None:
    """A GIF of 4 x 8 samples on their way through others and back."""
    shape = (ANCHORS, 32, gan.latent_dim)
    anchors = jax.random.normal(jax.random.fold_in(key, 6), shape)
    positions = jnp.linspace(0, ANCHORS, FRAMES, endpoint=False)
    path = np.asarray(latents.walk(anchors, positions))
    shown = latents.render(gan, network, path.reshape(-1, gan.latent_dim))
    shown = shown.reshape(FRAMES, 4, 8, *shown.shape[1:])
    frames = [pictures.table(frame, f"walks through {ANCHORS} latents") for frame in shown]
    pictures.save_gif(frames, file, 80)


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Each direction's effects, the mean over the seeds of their sizes, and its class changes."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    cases = [(kind, number + 1) for kind in kinds for number in range(DIRECTIONS)]
    figure = Figure((11, 5.2), layout="tight")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    sizes = np.array(
        [
            [np.mean([abs(r[name]) for r in rows if (r["kind"], r["number"]) == case])]
            for case in cases
            for name in STATISTICS
        ]
    ).reshape(len(cases), -1)
    image = left.imshow(sizes, cmap="cividis", aspect="auto", vmin=0)
    left.set_xticks(range(len(STATISTICS)), list(STATISTICS))
    left.set_yticks(range(len(cases)), [f"{kind} {number}" for kind, number in cases])
    left.set_title(f"change from -{MOVE:g} to +{MOVE:g} sd, in deviations of real images")
    figure.colorbar(image, ax=left)
    for kind, colour in zip(kinds, charts.COLOURS):
        for seed in sorted({row["seed"] for row in rows}):
            own = [r["flips"] for r in rows if (r["kind"], r["seed"]) == (kind, seed)]
            label = kind if seed == 0 else None
            right.plot(range(1, len(own) + 1), own, "o-", color=colour, alpha=0.7, label=label)
    right.set(xlabel="direction", ylim=(0, None))
    right.set_title("samples whose class changes")
    right.set_xticks(range(1, DIRECTIONS + 1))
    right.legend()
    return figure


def moves_table(rows: list[dict[str, Any]]) -> str:
    """A line a kind: mean and deviation over the seeds of what its directions change."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        cells = [kind]
        for name in ("flips", *STATISTICS):
            by_seed: dict[int, list[float]] = {}
            for row in (row for row in rows if row["kind"] == kind):
                by_seed.setdefault(row["seed"], []).append(abs(row[name]))
            cells.append(tables.spread([float(np.mean(values)) for values in by_seed.values()]))
        lines.append(cells)
    return tables.markdown(["directions", "class changes", *STATISTICS], lines)


def figures_table(figures: list[dict[str, float]]) -> str:
    """A line a figure of `inverted` and `remembered`."""
    names = [name for name in figures[0] if name != "seed"]
    lines = [[name.replace("_", " "), tables.spread([f[name] for f in figures])] for name in names]
    return tables.markdown(["figure", "over seeds"], lines)


if __name__ == "__main__":
    cli.run(main)

"""Uneven data: MNIST with a long tail, and with a few hundred images; what helps, class by class.

    python studies/imbalance.py
    python studies/imbalance.py --dataset=digits --num_steps=500 --out=/tmp  # a look, in a minute

Two cases, of MNIST's training images:

- `long_tail`: 4,000 of the most frequent class to 40 of the rarest, an exponential profile between
  (Cui et al. 2019, section 5.1). Which class is how rare depends on the seed, so that a rare class
  is not always the same digit.
- `few`: 30 of each class.

One baseline, `mescheder` with a small convolutional generator, and one change a variant
(VARIANTS). All are compared with real test images, equally many of each class: the generator that
is wanted draws every class as often and as well as any other. The class of a sample is what MNIST's
own classifier says; a conditional generator is asked for every class equally often. `training
images` is what those themselves score, and `other images` real ones, equally many of each class.

Runs are in `--runs`, and a second start goes on where the first has stopped. **Their config.json
says `dataset: mnist`, and the data are the subset above**: the counts, and the seed that draws it,
are in the file beside a run's folder. `evaluate.py` compares such a run with all of MNIST.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import charts  # noqa: E402
import cli  # noqa: E402
import data  # noqa: E402
import features  # noqa: E402
import gan as gans  # noqa: E402
import metrics  # noqa: E402
import pictures  # noqa: E402
import runs  # noqa: E402
import scores  # noqa: E402
import starts  # noqa: E402
import tables  # noqa: E402
import train  # noqa: E402

LOOKS = ["d_augment.color=1", "d_augment.translation=1", "d_augment.cutout=1"]
# ADA moves the same transforms; its probability five times as fast as published, for short runs.
ADA = [*LOOKS, "ada_target=0.6", "ada_images=100000"]
VARIANTS = {
    "baseline": [],
    "balanced": ["balanced=True"],
    "crops": ["augment.crop=2"],
    "flips": ["augment.flip=0.5"],
    "DiffAugment": LOOKS,
    "ADA": ADA,
    "conditional": ["conditional=True"],
    "conditional, balanced": ["conditional=True", "balanced=True"],
}
CASES = {
    "long_tail": list(VARIANTS),
    "few": [name for name in VARIANTS if "balanced" not in name],  # it is
}
TRAINED, OTHERS = "training images", "other images"  # rows of real ones
BASE = ["generator.name=dcgan", "generator.width=16", "batch_size=64"]


class Sizes(NamedTuple):
    """Images of a long tail's most frequent class; of each class of the few; and of OTHERS."""

    most: int
    few: int
    others: int


SIZES = {"mnist": Sizes(4_000, 30, 500), "digits": Sizes(100, 13, 25)}
RATIO = 100.0
NUM_SAMPLES = 5_000
RAREST = 3  # classes that are looked at by themselves
SHOWN = 6  # of a class
LAST_ROWS = 5  # of metrics.jsonl, over which D's accuracy is averaged
TITLES = {
    "long_tail": "A long tail, 100 to 1; `rarest` is the mean of the three rarest classes.",
    "few": "A few images, equally many of each class; `in class` is the mean of the classes' own.",
}
COLOURS = dict(zip(VARIANTS, (*charts.COLOURS[:6], charts.COLOURS[8], charts.COLOURS[15])))
COLOURS |= {TRAINED: charts.COLOURS[6], OTHERS: charts.COLOURS[7]}

DATASET = flags.DEFINE_enum("dataset", "mnist", list(SIZES), "The images.")
OUT = flags.DEFINE_string("out", "docs/studies", "The folder of figures and tables.")
RUNS = flags.DEFINE_string("runs", "runs/studies", "The folder of the runs.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each variant.", lower_bound=1)
NUM_STEPS = flags.DEFINE_integer("num_steps", 1_500, "Of each run.", lower_bound=1)
ONLY = flags.DEFINE_multi_enum("only", None, list(VARIANTS), "These variants; without it all.")


class Reference(NamedTuple):
    """Real test images as the classifier sees them, equally many of each class."""

    images: np.ndarray
    labels: np.ndarray
    features: np.ndarray


def main(argv: list[str]) -> None:
    del argv
    out = Path(OUT.value)
    if not out.is_dir():
        raise app.UsageError(f"--out={out}: there is no such folder")
    rows = []
    for case, variants in CASES.items():
        chosen = [name for name in variants if name in (ONLY.value or variants)]
        for variant in [TRAINED, OTHERS, *chosen]:  # seeds share a compiled step
            for seed in range(SEEDS.value):
                rows.append(train_and_score(case, variant, seed))
                print(summary(rows[-1]), flush=True)
    tables.write_csv(out / "imbalance.csv", rows)
    own = {case: [row for row in rows if row["case"] == case] for case in CASES}
    parts = [f"{TITLES[case]}\n\n{table(case, own[case])}" for case in CASES]
    (out / "imbalance.md").write_text("\n".join(parts))
    for case, name in (("long_tail", "imbalance"), ("few", "imbalance_few")):
        draw = draw_long_tail if case == "long_tail" else draw_few
        draw(own[case]).savefig(out / f"{name}.png", dpi=100)


def long_tail(num_classes: int, most: int, ratio: float) -> list[int]:
    """Images of each class, the most frequent first: most * ratio^(-i / (num_classes - 1)).

    Rounded down. Source: Cui et al. 2019, section 5.1, whose imbalance factor is `ratio`.
    """
    exact = most * float(ratio) ** (-np.arange(num_classes) / (num_classes - 1))
    return np.floor(exact + 1e-9).astype(int).tolist()


def class_order(seed: int, num_classes: int) -> np.ndarray:
    """The classes of a long tail, the most frequent first.

    One order, turned by `RAREST` classes a seed, so that other ones are rare.
    """
    return np.roll(np.random.default_rng(0).permutation(num_classes), RAREST * seed)


def subset(dataset: data.Dataset, counts: Sequence[int], seed: int) -> data.Dataset:
    """So many images of each class, at random; those of more images hold those of fewer."""
    labels = np.asarray(dataset.labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    members = [order[labels[order] == c][:count] for c, count in enumerate(counts)]
    chosen = np.sort(np.concatenate(members))
    return dataset._replace(images=dataset.images[chosen], labels=labels[chosen])


def counts_of(case: str, seed: int) -> list[int]:
    """How many images of class 0, 1, ... a case has."""
    num, sizes = source()[0].dataset.num_classes or 0, SIZES[DATASET.value]
    if case == "few":
        return [sizes.few] * num
    counts = np.empty(num, int)
    counts[class_order(seed, num)] = long_tail(num, sizes.most, RATIO)
    return counts.tolist()


@functools.cache
def source() -> tuple[starts.Prepared, Reference]:
    """The whole data set, and what everything is compared with; read once."""
    prepared = starts.prepare(read_config("baseline", 0))
    held_out, view = prepared.judge.held_out, prepared.judge.views[0]
    assert held_out is not None
    num = int(np.bincount(np.asarray(held_out.labels)).min())
    even = subset(held_out, [num] * (held_out.num_classes or 0), seed=0)
    seen, _ = features.compute(view, even.images)
    return prepared, Reference(even.images, np.asarray(even.labels), seen)


@functools.cache
def training_set(case: str, seed: int) -> data.Dataset:
    return subset(source()[0].dataset, counts_of(case, seed), seed)


def read_config(variant: str, seed: int) -> ConfigDict:
    """The config of a run, but for its data."""
    config = cli.load_config(f"{ROOT}/configs/{DATASET.value}.py:mescheder")
    words = [f"seed={seed}", f"num_steps={NUM_STEPS.value}", "eval_every=0", "sample_every=0"]
    words += BASE + VARIANTS[variant]
    return cli.with_overrides(config, [f"--config.{word}" for word in words])


def path(case: str, variant: str, seed: int, suffix: str = "") -> Path:
    """A run's folder, or the file beside it."""
    words = [DATASET.value, case, variant.replace(", ", "_"), str(NUM_STEPS.value), str(seed)]
    return Path(RUNS.value) / f"imbalance-{'-'.join(words)}{suffix}"


def train_run(case: str, variant: str, seed: int) -> tuple[gans.Gan, gans.GanState]:
    """Trains a run, or goes on with it; of one that is done its last state."""
    config, place = read_config(variant, seed), path(case, variant, seed)
    known = source()[0]._replace(dataset=training_set(case, seed))
    prepared = starts.prepare(config, known)
    state = train.train_together([config], [place], place, prepared=prepared)[0]
    return prepared.gan, state


def samples(gan: gans.Gan, state: gans.GanState) -> tuple[np.ndarray, np.ndarray | None]:
    """Images uint8 [NUM_SAMPLES, ...], and of a conditional GAN the labels, equally many each."""
    labels = np.arange(NUM_SAMPLES) % gan.num_classes if gan.num_classes else None
    key = jax.random.fold_in(state.key, scores.EVAL_KEY)
    return scores.draw(gan, state.average, key, NUM_SAMPLES, labels), labels


def train_and_score(case: str, variant: str, seed: int) -> dict[str, Any]:
    """A run, or real images, and the scores: a line of the table. An earlier start's are read."""
    result = path(case, variant, seed, ".json")
    if not result.exists():
        if variant in VARIANTS:
            images, labels = samples(*train_run(case, variant, seed))
        else:
            images, labels = real_images(case, variant, seed), None
        row = {"case": case, "variant": variant, "seed": seed, "counts": counts_of(case, seed)}
        row |= score(images, labels, case, seed)
        if variant == TRAINED:
            row.pop("memorisation", None)  # it is what would be memorised
        result.parent.mkdir(parents=True, exist_ok=True)
        runs.replace(result, json.dumps(row))
    row = json.loads(result.read_text())
    if variant in VARIANTS:
        last = runs.read_metrics(path(case, variant, seed))[-LAST_ROWS:]
        row["d_accuracy"] = statistics.fmean(found["train/d_accuracy"] for found in last)
        if variant == "ADA":
            row["ada_probability"] = last[-1]["train/ada_probability"]
    return row


def real_images(case: str, variant: str, seed: int) -> np.ndarray:
    """At most NUM_SAMPLES of those trained on, or others, equally many of each class."""
    if variant == TRAINED:
        images = training_set(case, seed).images
        return images[np.random.default_rng(seed).permutation(len(images))[:NUM_SAMPLES]]
    whole, num = source()[0].dataset, SIZES[DATASET.value].others
    labels = np.asarray(whole.labels)
    order = np.random.default_rng(seed).permutation(len(labels))  # `subset` takes the first
    members = [order[labels[order] == c][-num:] for c in range(whole.num_classes or 0)]
    return whole.images[np.concatenate(members)]


def score(images: np.ndarray, labels: np.ndarray | None, case: str, seed: int) -> dict[str, float]:
    """The scores of samples, by name; `recall_3` is of the class that is rarer than three others.

    Args:
      images: uint8 [N, H, W, C].
      labels: int [N], what they were made as, if as anything.
      case, seed: of the training images.
    """
    prepared, real = source()
    seen, logits = features.compute(prepared.judge.views[0], images)
    classes, num = logits.argmax(axis=1), logits.shape[1]
    recall, coverage = class_recall_coverage(real.features, real.labels, seen, classes, num)
    by_class = {
        "share": (np.bincount(classes, minlength=num) / len(classes)).tolist(),
        "recall": recall,
        "coverage": coverage,
        "fd": metrics.frechet_distances_by_class(real.features, real.labels, seen, classes, num),
    }
    found: dict[str, float] = {
        "fd_whole": metrics.frechet_distance(*map(metrics.gaussian, (real.features, seen))),
        "recall_whole": statistics.fmean(recall),  # equally many of each class
        "coverage_whole": statistics.fmean(coverage),
        "share_kl": metrics.mode_kl(classes, np.full(num, 1 / num)),
    }
    if case == "few":
        trained = training_set(case, seed)
        counts, held_out = counts_of(case, seed), data.Dataset(real.images, real.labels, num)
        others = subset(held_out, counts, seed=0)
        found["memorisation"] = metrics.memorisation(trained.images, others.images, images)
    if labels is not None:
        found["label_accuracy"] = metrics.label_accuracy(classes, labels)
    order = class_order(seed, num)
    for name, values in by_class.items():
        found |= {f"{name}_{rank}": values[c] for rank, c in enumerate(order)}
    return found


def class_recall_coverage(
    real: np.ndarray,
    labels: np.ndarray,
    fake: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
) -> tuple[list[float], list[float]]:
    """Of each class the share of its real samples that fakes recall, and that they cover.

    Recalled: in the ball of a fake, of any class, that reaches to its third nearest other fake.
    Covered: a fake of the class is in the ball of the real sample that reaches to its fifth nearest
    other real one of the class; no class with fewer than four fakes is. Where fakes are few their
    balls are large: a dozen recall a whole class, and cover little of it.

    Args:
      real, fake: features, [N, D] and [M, D].
      labels, classes: int [N] and [M], of the real samples and of the fakes.
    Source: Kynkaanniemi et al. 2019, equation 2, and Naeem et al. 2020, their means
      over the real samples of a class in place of all.
    """
    radii = metrics.neighbour_radii(fake)
    compare = metrics.precision_recall_density_coverage
    recall, coverage = [], []
    for c in range(num_classes):
        own, ours = real[labels == c], fake[classes == c]
        # Recall is precision with real and fake in each other's place.
        recall.append(compare(fake, own, radii).precision)
        coverage.append(compare(own, ours).coverage if len(ours) > 3 else 0.0)
    return recall, coverage


def summary(row: dict[str, Any]) -> str:
    """A line of progress."""
    names = ("fd_whole", "recall_whole", "coverage_whole", "share_kl")
    figures = ", ".join(f"{name} {row[name]:.3g}" for name in names)
    return f"{row['case']}, {row['variant']}, seed {row['seed']}: {figures}"


def ranks(rows: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """A score by rank, [runs, classes], the most frequent class first; NaN where there is none."""
    num = sum(key.startswith("recall_") for key in rows[0]) - 1  # and `recall_whole`
    values = [[row[f"{name}_{rank}"] for rank in range(num)] for row in rows]
    return np.array(values, float)


def by_variant(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each variant."""
    names = dict.fromkeys(row["variant"] for row in rows)
    return {name: [row for row in rows if row["variant"] == name] for name in names}


def cure(rows: Sequence[dict[str, Any]], clean: bool = False) -> str | None:
    """The change with the least mean Frechet distance; None where no change was trained.

    Args:
      rows: of one case.
      clean: the one whose memorisation is nearest to 0.5 instead.
    """

    def fault(row: dict[str, Any]) -> float:
        return abs(row["memorisation"] - 0.5) if clean else row["fd_whole"]

    faults = {
        name: statistics.fmean(map(fault, own))
        for name, own in by_variant(rows).items()
        if name in VARIANTS and name != "baseline"
    }
    return min(faults, key=lambda name: faults[name], default=None)


def table(case: str, rows: Sequence[dict[str, Any]]) -> str:
    """Means and standard deviations over seeds."""
    names = {"fd_whole": "Frechet distance", "recall_whole": "recall", "coverage_whole": "coverage"}
    by_class = {"share": "share", "fd": "Frechet distance", "recall": "recall"}
    by_class |= {"coverage": "coverage"}
    if case == "few":
        names |= {"memorisation": "memorisation", "d_accuracy": "D's accuracy"}
        of_classes, what, by_class = slice(None), "in class", {"fd": "Frechet distance"}
    else:
        names["share_kl"] = "KL of shares"
        of_classes, what = slice(-RAREST, None), "rarest"
    heads = ["", "seeds", *names.values(), *(f"{what}: {name}" for name in by_class.values())]
    lines = []
    for variant, own in by_variant(rows).items():
        cells = [[row[name] for row in own if name in row] for name in names]
        cells += [means(ranks(own, name)[:, of_classes]) for name in by_class]
        lines.append([variant, str(len(own)), *map(tables.spread, cells)])
    return tables.markdown(heads, lines)


def means(values: np.ndarray) -> list[float]:
    """Of each run the mean over classes, without those that have no score."""
    return [float(np.mean(row[~np.isnan(row)])) for row in values if not np.isnan(row).all()]


def draw_long_tail(rows: Sequence[dict[str, Any]]) -> Figure:
    """Scores over how rare a class is, and samples of the rarest: the failure and the best cure."""
    drawing, best = Figure(figsize=(9, 9.6), layout="constrained"), cure(rows)
    above, below = drawing.subfigures(2, 1, squeeze=False, height_ratios=(3.9, 1))[:, 0]
    panels = above.subplots(2, 2).flat
    counts = sorted(rows[0]["counts"], reverse=True)
    names = {
        "share": f"share of samples (wanted: {1 / len(counts):.1f})",
        "fd": "Frechet distance in the class",
    }
    names |= {"recall": "recall", "coverage": "coverage"}
    for axes, (name, title) in zip(panels, names.items()):
        for variant, own in by_variant(rows).items():
            values = ranks(own, name)
            mean = np.where(np.isnan(values).all(0), np.nan, np.nansum(values, 0))
            mean /= np.maximum((~np.isnan(values)).sum(0), 1)
            real, shown = variant not in VARIANTS, variant in ("baseline", best)
            style = {"linestyle": "--" if real else "-", "linewidth": 3 if shown else 1.2}
            axes.plot(mean, color=COLOURS[variant], label=variant, marker=".", **style)
        if name == "share":
            axes.axhline(1 / len(counts), color="#bbbbbb", zorder=0)
        if name == "fd":
            axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xticks(range(len(counts)), [f"{count:,}" for count in counts], rotation=45)
        axes.set_xlabel("training images of the class")
    handles = above.axes[0].get_legend_handles_labels()
    above.legend(*handles, loc="outside lower center", ncols=5)
    draw_samples(below, rows, best, "the three rarest classes")
    return drawing


def draw_few(rows: Sequence[dict[str, Any]]) -> Figure:
    """A bar a variant for each score, and samples: the failure and the best cure."""
    drawing, best = Figure(figsize=(9, 7.6), layout="constrained"), cure(rows, clean=True)
    above, below = drawing.subfigures(2, 1, squeeze=False, height_ratios=(2.8, 1))[:, 0]
    names = {"memorisation": "memorisation (0.5 is clean)", "d_accuracy": "D's accuracy"}
    names |= {"fd_whole": "Frechet distance", "coverage_whole": "coverage"}
    for axes, (name, title) in zip(above.subplots(2, 2).flat, names.items()):
        found = {
            v: [row[name] for row in own if name in row] for v, own in by_variant(rows).items()
        }
        found = {variant: values for variant, values in found.items() if values}
        for place, (variant, values) in enumerate(reversed(found.items())):
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            mean, colour = statistics.fmean(values), COLOURS[variant]
            axes.barh(place, mean, xerr=deviation, color=colour, error_kw={"ecolor": "#555555"})
        axes.set_yticks(range(len(found)), list(reversed(found)))
        axes.set_title(title)
        if name in ("memorisation", "d_accuracy"):
            axes.axvline(0.5, color="#555555", linestyle=":")
            axes.set_xlim(0.3, 1)
    draw_samples(below, rows, best, "classes 0, 1 and 2")
    return drawing


def draw_samples(figure: Any, rows: Sequence[dict[str, Any]], best: str | None, what: str) -> None:
    """Training images, samples of the baseline and of the cure, of the first seed, side by side."""
    case, seed = rows[0]["case"], rows[0]["seed"]
    trained = [name for name in by_variant(rows) if name in ("baseline", best)]
    panels = figure.subplots(1, 1 + len(trained), squeeze=False)[0]
    figure.suptitle(f"{what}, seed {seed}", fontsize="medium")
    for axes, variant in zip(panels, [TRAINED, *trained]):
        draw_grid(axes, case, variant, seed)


def draw_grid(axes: Axes, case: str, variant: str, seed: int) -> None:
    """A row a class, of what was asked for as it, or without labels what is taken for it."""
    dataset = training_set(case, seed)
    num = dataset.num_classes or 0
    chosen = class_order(seed, num)[-RAREST:] if case == "long_tail" else np.arange(RAREST)
    if variant == TRAINED:
        images, classes = dataset.images, dataset.labels
    else:
        images, classes = samples(*train_run(case, variant, seed))
        if classes is None:
            classes = features.compute(source()[0].judge.views[0], images)[1].argmax(axis=1)
    grid = np.full((RAREST, SHOWN, *images.shape[1:]), 64, np.uint8)
    for row, c in zip(grid, chosen):
        found = images[np.asarray(classes) == c][:SHOWN]
        row[: len(found)] = found
    picture = np.asarray(pictures.draw_grid(grid.reshape(-1, *images.shape[1:]), SHOWN))
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
    height = len(picture) / RAREST
    axes.set_yticks([height * (i + 0.5) for i in range(RAREST)], [str(c) for c in chosen])
    axes.set_xticks([])
    axes.set_title(variant, fontsize="medium")


if __name__ == "__main__":
    cli.run(main)

"""The scores of a generator: sample, look through networks, compare with real data, raise alarms.

`make_judge` gathers the real data and the networks of a config. `evaluate` scores a generator,
`score` any set of images, `floor` held-out real ones: all through the same few lines.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from absl import app

import data
import devices
import features
import gan as gans
import hosts
import metrics

if TYPE_CHECKING:
    from ml_collections import ConfigDict

EVAL_KEY = 2**32 - 3  # folded into the state's key: latents that no step and no picture draws
NUM_SAMPLES = 10_000
BATCH_SIZE = 500
MAX_CLASSES_APART = 100  # of more, distances inside each class are not logged
MIN_SAMPLES = 10  # of the splits of the Inception score
MIN_REAL = 6  # of the five neighbours of each
FEW = 100  # streamed ones, each decoded to be looked at
# A metric of metrics.py, seen through the published Inception weights, has its usual name.
USUAL_NAMES = {
    "fd_inception": "fid",
    "kd_inception": "kid",
    "inception_score_inception": "inception_score",
}


@dataclasses.dataclass(frozen=True, eq=False)  # equal by identity: what it yields is remembered
class Judge:
    """What a set of fakes is compared with.

    Attributes:
      dataset: the training examples.
      held_out: real examples that training never sees; None where there are none.
      views: the networks that images are looked at through.
      mixture: of a toy, whose points need no network.
      num_samples: how many fakes are asked for.
      conditional: fakes come with the labels that they were made as, in the data's shares.
    """

    dataset: data.Dataset
    held_out: data.Dataset | None
    views: tuple[features.View, ...]
    mixture: data.Mixture | None
    num_samples: int
    conditional: bool = False

    @property
    def num_modes(self) -> int | None:
        """How many there are to be found; None where nothing tells them apart."""
        if self.mixture:
            return len(self.mixture.centres)
        return next((view.num_classes for view in self.views if view.num_classes), None)

    def labels(self, num: int) -> np.ndarray | None:
        """int32 [num], those of real examples, always the same; None for an unconditional GAN."""
        if not self.conditional:
            return None
        labels = np.asarray(self.dataset.labels)
        return np.resize(labels[_choose(len(labels), num)], num)


class Reals(NamedTuple):
    """Real examples through one network.

    Attributes:
      features: float32 [N, D], of all training examples.
      classes: int [N], as the network sees them.
      gaussian: of the features.
      chosen: int, which of them precision, recall, density and coverage compare with: as many as
        there are fakes, where there are so many.
      radii: of the chosen ones.
    """

    features: np.ndarray
    classes: np.ndarray
    gaussian: metrics.Gaussian
    chosen: np.ndarray
    radii: dict[int, np.ndarray]


def make_judge(config: ConfigDict, dataset: data.Dataset, num_samples: int | None = None) -> Judge:
    """The real data and networks that the scores of a config are made with; computes nothing yet.

    Args:
      config: see configs/default.py.
      dataset: its training examples.
      num_samples: as many fakes; None: `config.eval_samples`, or if that is None, too, as many as
        there are held-out examples, 10,000 at most, so that scores and floor compare.
    Raises:
      app.UsageError: a network does not exist, does not fit, or its weights are not there; too few
        samples.
    """
    shape = dataset.spec.shape
    names = view_names(config, shape)
    held_out = data.load_held_out(config)
    mixture = data.TOYS[config.dataset]() if config.dataset in data.TOYS else None
    if num_samples is None:
        num_samples = config.eval_samples
    if num_samples is not None and num_samples < MIN_SAMPLES:
        raise app.UsageError(f"scores need {MIN_SAMPLES} samples at least, not {num_samples}")
    if num_samples is None:
        num_samples = min(NUM_SAMPLES, len(held_out.images) if held_out else NUM_SAMPLES)
    needed = num_samples * math.prod(shape) * dataset.images.itemsize
    if needed > data.host_memory():
        raise app.UsageError(
            f"{num_samples} samples take {needed // 2**30:,} GiB, and this machine has "
            f"{data.host_memory() // 2**30:,}: fewer eval_samples"
        )
    return Judge(
        dataset,
        held_out,
        tuple(
            features.VIEWS[name](config.dataset, shape, config.inception_weights) for name in names
        ),
        mixture,
        num_samples,
        config.conditional,
    )


def view_names(config: ConfigDict, shape: tuple[int, ...]) -> list[str]:
    """The names in `features.VIEWS` that a config asks for, or the usual ones.

    Raises:
      app.UsageError: one does not exist, or points have no images to look at.
    """
    asked = config.eval_features
    if asked is None:
        return ["classifier"] if features.has_classifier(config.dataset, shape) else []
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in features.VIEWS:
            raise app.UsageError(
                f"eval_features={name!r} does not exist: choose from {', '.join(features.VIEWS)}"
            )
    if len(shape) != 3:
        raise app.UsageError(f"eval_features are of images: {config.dataset} has points")
    return names


def metric_names(judge: Judge) -> list[str]:
    """The names of what `evaluate` returns, without floors and classes of their own."""
    if judge.mixture:
        return ["eval/modes", "eval/mode_kl", "eval/high_quality"]
    names = ["relative_deviation_pixels"]
    if judge.held_out:
        names.append("memorisation_pixels")
    for view in judge.views:
        seen = ["fd", "kd", "precision", "recall", "density", "coverage"]
        if view.num_classes is None:
            seen.append("inception_score")
        else:
            names += ["modes", "mode_kl"]
            seen += ["label_accuracy"] if judge.conditional else []
        names += [_name(metric, view) for metric in seen]
    return [f"eval/{name}" for name in names]


def base_metric(name: str) -> str:
    """The entry of `metrics.METRICS` that a name such as eval/fd_classifier is of."""
    name = name.removeprefix("eval/").removeprefix("floor_")
    if name.startswith(("fid", "kid")):
        return {"f": "fd", "k": "kd"}[name[0]]
    return max((base for base in metrics.METRICS if name.startswith(base)), key=len)


def perfect(name: str, num_samples: int, num_real: int, num_modes: int | None) -> float | None:
    """What a perfect generator scores; None where only the floor can tell.

    And where it depends on the number of modes, and that is not known.

    Args:
      name: of the metric.
      num_samples: how many.
      num_real: training examples that they are compared with.
      num_modes: how many there are to be found.
    """
    base = base_metric(name)
    formula = metrics.METRICS[base].perfect
    if formula is None or (num_modes is None and base in ("modes", "mode_kl")):
        return None
    return formula(num_samples, num_real, num_modes or 0)


def best_metric(names: Iterable[str]) -> str | None:
    """The metric by which the best checkpoint is kept, where the config names none.

    FID, if it is there, or another Frechet distance, or of a toy high quality; else None.

    Args:
      names: of the metrics there are, as `metric_names` or a row of metrics.jsonl has them.
    """
    names = [name for name in names if name.startswith("eval/")]
    distances = [name for name in names if name.startswith(("eval/fid", "eval/fd_"))]
    for name in ("eval/high_quality", "eval/fid", *distances):
        if name in names:
            return name
    return None


def best_step(rows: Sequence[dict[str, Any]], metric: str | None) -> int | None:
    """The step whose row has the best value of a metric, the first of equals; None without one."""
    if metric is None:
        return None
    scored = [row for row in rows if row.get(metric) is not None]
    if not scored:
        return None
    return min(scored, key=lambda row: distance_from_best(metric, row[metric]))["step"]


def target_reached(config: ConfigDict, row: dict[str, Any]) -> bool:
    """Whether the row of metrics.jsonl has the preset figure, or a better one."""
    name, target = config.target.metric, config.target.value
    value = row.get(name)
    if value is None:
        return False
    return distance_from_best(name, value) <= distance_from_best(name, target)


class Compared(NamedTuple):
    """A score beside what it is held against; what there is none of is None.

    Attributes:
      name: without eval/.
      value: the score.
      deviation: over repeated draws, or over the runs of a population.
      floor: what held-out real examples score.
      perfect: what a perfect generator scores at so many samples.
      better: 'lower', 'higher', or the value that is best.
    """

    name: str
    value: float | None
    deviation: float | None
    floor: float | None
    perfect: float | None
    better: str | float


def compare(result: dict[str, Any], num_real: int | None, num_modes: int | None) -> list[Compared]:
    """The scores of a result of `evaluate`, or of a row of metrics.jsonl, as lines of a table.

    Args:
      result: with `eval/num_samples`, and as ..._std deviations where there are any.
      num_real: training examples that samples are compared with; None: as many as samples.
      num_modes: how many there are to be found, where that is known.
    """
    lines = []
    num = int(result.get("eval/num_samples", 0))
    for name, value in result.items():
        short = name.removeprefix("eval/")
        if short == name or short.endswith(("_std", "num_samples")) or short.startswith("floor_"):
            continue
        lines.append(
            Compared(
                short,
                value,
                result.get(f"{name}_std"),
                result.get(f"eval/floor_{short}"),
                perfect(name, num, num_real or num, num_modes),
                metrics.METRICS[base_metric(name)].better,
            )
        )
    return lines


def distance_from_best(name: str, value: float) -> float:
    """A number that falls as a metric's value gets better; of train/... that is the value."""
    if not name.startswith("eval/"):
        return value
    better = metrics.METRICS[base_metric(name)].better
    if better == "lower":
        return value
    return -value if better == "higher" else abs(value - float(better))


def evaluate(
    judge: Judge,
    gan: gans.Gan,
    network: gans.Network,
    key: jax.Array,
    truncation: float | None = None,
) -> dict[str, float]:
    """The scores of a generator and their floor, named eval/..., with `eval/num_samples`.

    Where samples hold NaN or infinite numbers `eval/num_samples` is 0, and the only one.

    Args:
      judge: what fakes are compared with.
      gan: static.
      network: `state.average`.
      key: of the latents: `fold_in(state.key, EVAL_KEY)`.
      truncation: of the latents, see `gan.draw_latents`.
    """
    labels = judge.labels(judge.num_samples)
    try:
        fake = draw(gan, network, key, judge.num_samples, labels, truncation)
        return with_floor(judge, fake, labels)
    except FloatingPointError:
        return {"eval/num_samples": 0}


def with_floor(
    judge: Judge, fake: np.ndarray, labels: np.ndarray | None = None
) -> dict[str, float]:
    """`score` of examples and their floor, named eval/... and eval/floor_...."""
    found = score(judge, fake, labels) | {f"floor_{k}": v for k, v in floor(judge).items()}
    return {f"eval/{name}": value for name, value in found.items()}


def draw(
    gan: gans.Gan,
    network: gans.Network,
    key: jax.Array,
    num: int,
    labels: np.ndarray | None = None,
    truncation: float | None = None,
) -> np.ndarray:
    """Samples as every score sees them: images uint8 [num, H, W, C], points float32 [num, 2].

    In batches, at matmul precision 'highest', with standing statistics where the GAN has them.

    Raises:
      FloatingPointError: some hold NaN or infinite numbers.
    """
    parts = []
    batches = math.ceil(num / BATCH_SIZE)
    if labels is not None:
        labels = np.resize(labels, (batches, BATCH_SIZE))
    with jax.default_matmul_precision("highest"):
        standing_key = jax.random.fold_in(key, batches)
        network = gans.standing_statistics(gan, network, standing_key, truncation)
        for i in range(batches):
            given = None if labels is None else jax.numpy.asarray(labels[i])
            batch_key = jax.random.fold_in(key, i)
            examples, finite = _draw_batch(gan, network, batch_key, given, truncation)
            if not finite:
                raise FloatingPointError("the samples hold NaN or infinite numbers")
            parts.append(np.asarray(examples))
    return np.concatenate(parts)[:num]


@functools.partial(jax.jit, static_argnums=0)
def _draw_batch(
    gan: gans.Gan,
    network: gans.Network,
    key: jax.Array,
    labels: jax.Array | None,
    truncation: float | None,
) -> tuple[Any, jax.Array]:
    latents = devices.split(gans.draw_latents(gan, key, BATCH_SIZE, truncation))
    examples = gans.sample(gan, network, latents, labels)
    limit = metrics.LARGEST if examples.ndim == 2 else np.inf  # images are clipped
    finite = (abs(examples) < limit).all()
    return devices.join(gans.to_uint8(examples) if examples.ndim == 4 else examples), finite


def score(judge: Judge, fake: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
    """The scores of any examples, whoever made them.

    Args:
      judge: what they are compared with.
      fake: images uint8 [N, H, W, C], or points float32 [N, 2].
      labels: int [N], what they were made as, if as anything: classes of their own are then these.
    Returns:
      Values by name, `num_samples` among them.
    Raises:
      ValueError: they are fewer than MIN_SAMPLES, and how many are needed.
    """
    found: dict[str, float] = {"num_samples": len(fake)}
    if judge.mixture:
        return found | _point_scores(judge.mixture, fake)
    found["relative_deviation_pixels"] = metrics.relative_deviation(
        some_images(judge, len(fake)), fake
    )
    if judge.held_out:
        num = min(len(judge.dataset.images), len(judge.held_out.images))
        train = some_images(judge, num)
        held_out = judge.held_out.images[:num]
        found["memorisation_pixels"] = metrics.memorisation(train, held_out, fake)
    for view in judge.views:
        found |= _view_scores(judge, view, fake, labels)
    return found


def check(judge: Judge) -> None:
    """The real examples are enough, and not all one: nothing could be compared with them.

    Raises:
      app.UsageError: they are not.
    """
    num, least = judge.num_samples, MIN_REAL if judge.views else 2
    if judge.held_out:
        num = min(num, len(judge.held_out.images))
    if num < MIN_SAMPLES:
        raise app.UsageError(f"scores need {MIN_SAMPLES} held-out examples at least, not {num}")
    if len(judge.dataset.images) < least:
        num = len(judge.dataset.images)
        raise app.UsageError(f"scores need {least} examples at least, not {num}")
    real = some_images(judge, FEW if judge.dataset.streamed else num)
    if (real == real[0]).all():
        raise app.UsageError("scores are of how examples differ, and these are all equal")


def some_images(judge: Judge, num: int) -> np.ndarray:
    """So many training images, always the same."""
    if judge.dataset.streamed:
        return _decoded(judge, num)
    return judge.dataset.images[_choose(len(judge.dataset.images), num)]


@functools.lru_cache(maxsize=2)
def _decoded(judge: Judge, num: int) -> np.ndarray:
    return judge.dataset.images[_choose(len(judge.dataset.images), num)]


@functools.lru_cache(maxsize=2)  # a judge holds its data
def floor(judge: Judge) -> dict[str, float]:
    """What held-out real examples score, as many as fakes, or all where they are fewer.

    `num_samples` among them says how many. Empty where nothing is held out.
    """
    if judge.held_out is None:
        return {}
    labels = judge.held_out.labels if judge.conditional else None
    labels = None if labels is None else labels[: judge.num_samples]
    found = score(judge, judge.held_out.images[: judge.num_samples], labels)
    found.pop("memorisation_pixels", None)  # every held-out image is its own neighbour
    return found


def alarms(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the last row of metrics.jsonl gives reason to look at, in words.

    What lasts is an alarm where it begins, not at every row.

    Args:
      rows: all rows so far, the newest last.
    """
    before = rows[:-1]
    scored = any(name.startswith("eval/") for name in rows[-1])
    found = [_modes_lost(rows)] if scored else []
    checks = OF_TRAINING + OF_SCORES * scored  # which look through all rows for the last scores
    found += [check(rows) for check in checks if not check(before)]
    return [text for text in found if text]


def _values(name: str, rows: Sequence[dict[str, Any]]) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _latest(name: str, rows: Sequence[dict[str, Any]]) -> float | None:
    return next((row[name] for row in reversed(rows) if row.get(name) is not None), None)


def _modes_lost(rows: Sequence[dict[str, Any]]) -> str | None:
    """Modes that the evaluation before had."""
    if not rows or rows[-1].get("eval/modes") is None:
        return None
    counts = _values("eval/modes", rows)
    if len(counts) < 2 or counts[-1] >= counts[-2]:
        return None
    return (
        f"modes lost: {counts[-1]:.0f} modes, {counts[-2]:.0f} at the evaluation before. Usually "
        "mode collapse begins. Try penalties.r1, a smaller learning rate of the generator, or "
        "an earlier checkpoint"
    )


def _discriminator_pinned(rows: Sequence[dict[str, Any]]) -> str | None:
    """D has told everything right for a while."""
    accuracies = _values("train/d_accuracy", rows[-10:])
    if len(accuracies) < 10 or min(accuracies) < 0.99:
        return None
    return (
        f"discriminator pinned: d_accuracy {min(accuracies):.3f} or more in the last 10 rows. "
        "Usually D has won, and little gradient reaches G. Try penalties.r1, "
        "loss=non_saturating, a smaller learning rate of the discriminator, or augment"
    )


def _gradient_vanishing(rows: Sequence[dict[str, Any]]) -> str | None:
    """G's gradient is a hundredth of what it was."""
    first, latest = (_values("train/g_grad_norm", part) for part in (rows[:100], rows[-5:]))
    if len(first) < 10 or len(latest) < 5 or max(latest) > 0.01 * statistics.median(first):
        return None
    return (
        f"gradient vanishing: g_grad_norm {max(latest):.2g} at most in the last 5 rows, "
        f"{statistics.median(first):.2g} in the first. Usually the loss saturates because D is "
        "sure. Try loss=non_saturating, penalties.r1, or a smaller learning rate of D"
    )


def _samples_constant(rows: Sequence[dict[str, Any]]) -> str | None:
    """All samples look alike."""
    value = _latest("eval/relative_deviation_pixels", rows)
    if value is None or value > 0.2:
        return None
    return (
        f"samples nearly constant: they vary {value:.2g} times as much as real images. Usually "
        "the generator has collapsed onto one image. Try a new start with penalties.r1, or "
        "smaller learning rates"
    )


def _samples_not_finite(rows: Sequence[dict[str, Any]]) -> str | None:
    """No score could be had."""
    if _latest("eval/num_samples", rows) != 0:
        return None
    return (
        "samples not finite: none could be scored. Usually training has diverged. Try smaller "
        "learning rates, and an earlier checkpoint"
    )


OF_TRAINING = (_discriminator_pinned, _gradient_vanishing)  # lasting, as those below
OF_SCORES = (_samples_not_finite, _samples_constant)


def _point_scores(mixture: data.Mixture, fake: np.ndarray) -> dict[str, float]:
    """Of a toy: classes are the nearest centres, and only points near one count for modes."""
    classes, near = metrics.nearest_modes(fake, *mixture)
    num_classes = len(mixture.centres)
    found: dict[str, float] = {
        "modes": metrics.num_modes(classes[near], num_classes),
        "high_quality": metrics.high_quality(fake, *mixture),
    }
    if near.any():
        uniform = np.full(num_classes, 1 / num_classes)
        found["mode_kl"] = metrics.mode_kl(classes[near], uniform)
    return found


def _view_scores(
    judge: Judge, view: features.View, fake: np.ndarray, asked: np.ndarray | None
) -> dict[str, float]:
    """The scores through one network, by their names."""
    real = reals(judge, view)
    fake_features, fake_logits = features.compute(view, fake)
    chosen = real.features[real.chosen]
    seen = {
        "fd": metrics.frechet_distance(real.gaussian, metrics.gaussian(fake_features)),
        "kd": metrics.kernel_distance(real.features, fake_features).mean,
        **metrics.precision_recall_density_coverage(chosen, fake_features, real.radii)._asdict(),
    }
    found: dict[str, float] = {}
    by_class: dict[str, float] = {}
    if view.num_classes is None:
        order = _choose(len(fake), len(fake))  # its parts are neighbours: a folder may be by class
        seen["inception_score"] = metrics.inception_score(fake_logits[order]).mean
    else:
        classes = fake_logits.argmax(axis=1)
        labels = np.asarray(judge.dataset.labels)
        shares = np.bincount(labels, minlength=view.num_classes)
        found["modes"] = metrics.num_modes(classes, view.num_classes)
        found["mode_kl"] = metrics.mode_kl(classes, shares / shares.sum())
        real_classes = real.classes
        if asked is not None:
            seen["label_accuracy"] = metrics.label_accuracy(classes, asked)
            for c in np.unique(asked) if view.num_classes <= MAX_CLASSES_APART else ():
                chosen = asked == c
                accuracy = metrics.label_accuracy(classes[chosen], asked[chosen])
                by_class[_name("label_accuracy", view, c)] = accuracy
            real_classes, classes = labels, asked
        if view.num_classes <= MAX_CLASSES_APART:
            distances = metrics.frechet_distances_by_class(
                real.features, real_classes, fake_features, classes, view.num_classes
            )
            by_class |= {_name("fd", view, c): x for c, x in enumerate(distances) if x is not None}
    return found | {_name(metric, view): value for metric, value in seen.items()} | by_class


@functools.lru_cache(maxsize=4)  # as many as there are networks
def reals(judge: Judge, view: features.View) -> Reals:
    """The training examples through a network; features are kept in the user's cache folder."""
    images = judge.dataset.images
    digest = hashlib.sha256(view.fingerprint.encode())
    digest.update(str(images.shape).encode())
    if isinstance(images, np.ndarray):
        digest.update(np.ascontiguousarray(images).data)
    else:
        digest.update(images.fingerprint.encode())
    file = data.cache_folder() / f"features-{view.suffix}-{digest.hexdigest()[:16]}.npz"
    arrays = data.read_arrays(file)
    if hosts.any_of(arrays is None) or arrays is None:  # all compute, or none
        values, logits = features.compute(view, images)
        arrays = {"features": values, "classes": logits.argmax(axis=1)}
        data.write_arrays(file, arrays)
    chosen = _choose(len(images), judge.num_samples)
    return Reals(
        arrays["features"],
        arrays["classes"],
        metrics.gaussian(arrays["features"]),
        chosen,
        metrics.neighbour_radii(arrays["features"][chosen]),
    )


def _choose(num: int, limit: int) -> np.ndarray:
    """Indices of `limit` of `num` examples, or of all where there are no more: always the same."""
    return np.random.default_rng(0).permutation(num)[:limit]


def _name(metric: str, view: features.View, number: int | None = None) -> str:
    """fd becomes fd_classifier, or fid; of class 3 alone fd_classifier_class_3."""
    name = f"{metric}_{view.suffix}"
    return USUAL_NAMES.get(name, name) + ("" if number is None else f"_class_{number}")

"""Metrics: what a set of fake samples scores against a set of real ones.

Pure functions of arrays: images, features that a network made of them, its logits or its classes.
They compute in NumPy, in float64, on the host. An accelerator multiplies in float32, bfloat16 or
something between, each its own way, and these formulas subtract large numbers that nearly cancel:
on the host a score is the same on every machine, but for the last digits. Large arrays are
converted by blocks of rows, so that 50,000 features of 2,048 never exist whole in float64.

Input that gives no honest number (NaN, too few samples, unequal dimensions) is a ValueError in one
line. METRICS, at the foot, says of each metric which way is better and what perfect scores.
docs/metrics.md has the formulas and every deviation from their source.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

BLOCK_ROWS = 1024
BLOCK_NUMBERS = 2**23  # 64 MiB in float64
LARGEST = 1e15  # the squared distance of two samples must be finite in float32
EPSILON = float(np.finfo(np.float64).eps)


class Gaussian(NamedTuple):
    """Mean, float64 [D], and covariance, float64 [D, D]."""

    mean: np.ndarray
    covariance: np.ndarray


class Score(NamedTuple):
    """Mean and standard deviation over subsets or splits."""

    mean: float
    std: float


class NeighbourScores(NamedTuple):
    """Precision, recall and coverage are shares; density is 1 for real samples, and unbounded."""

    precision: float
    recall: float
    density: float
    coverage: float


def gaussian(features: np.ndarray) -> Gaussian:
    """The mean and the unbiased covariance of features.

    Args:
      features: [N, D], N at least 2.
    Raises:
      ValueError: fewer samples, or NaN or infinite ones.
    """
    features = _checked("features", features, least=2)
    mean = _mean(features)
    covariance = np.zeros((len(mean), len(mean)))
    for _, block in _blocks(features):
        block -= mean
        covariance += block.T @ block
    return Gaussian(mean, covariance / (len(features) - 1))


def frechet_distance(real: Gaussian, fake: Gaussian) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), the squared 2-Wasserstein distance.

    Of equal Gaussians it is 0 within 1e-12 tr(S1), and never negative.

    Args:
      real, fake: of equal dimension, as `gaussian` makes them.
    Raises:
      ValueError: dimensions are unequal, or NaN or infinite numbers.
    Source: Heusel et al. 2017, equation 6.
    """
    _same_dimension(real.covariance, fake.covariance)
    if not all(np.all(np.isfinite(array)) for array in (*real, *fake)):
        raise ValueError("a Gaussian holds NaN or infinite values")
    # With S = F F' the eigenvalues of S1 S2 are the squared singular values of F1' F2, which are
    # exact to rounding: roots of eigenvalues would turn rounding of 1e-16 into 1e-8.
    product = _factor(real.covariance).T @ _factor(fake.covariance)
    root_trace = np.linalg.svd(product, compute_uv=False).sum()
    trace = np.trace(real.covariance) + np.trace(fake.covariance)
    return max(0.0, float(np.sum((real.mean - fake.mean) ** 2) + trace - 2 * root_trace))


def frechet_distances_by_class(
    real: np.ndarray,
    real_classes: np.ndarray,
    fake: np.ndarray,
    fake_classes: np.ndarray,
    num_classes: int,
) -> list[float | None]:
    """The Frechet distance inside each class; None where real or fake has fewer than 2 samples.

    Args:
      real, fake: features, [N, D] and [M, D].
      real_classes, fake_classes: int [N] and [M] in [0, num_classes).
    Raises:
      ValueError: dimensions or lengths are unequal, a class is out of range, NaN.
    """
    real, fake = _checked("real", real), _checked("fake", fake)
    _same_dimension(real, fake)
    real_classes = _classes("real_classes", real_classes, num_classes, len(real))
    fake_classes = _classes("fake_classes", fake_classes, num_classes, len(fake))
    distances: list[float | None] = []
    for c in range(num_classes):
        members = real[real_classes == c], fake[fake_classes == c]
        enough = min(map(len, members)) >= 2
        distances.append(frechet_distance(*map(gaussian, members)) if enough else None)
    return distances


def kernel_distance(
    real: np.ndarray,
    fake: np.ndarray,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> Score:
    """The unbiased squared MMD with the kernel (x'y / D + 1)^3, averaged over random subsets.

    Unbiased: of equal distributions it is 0 on average, so that it can be negative.

    Args:
      real, fake: features, [N, D] and [M, D], at least 2 of each.
      subset_size: falls to the smaller of N and M.
      seed: of the subsets, which are the same in every call.
    Raises:
      ValueError: fewer samples, unequal dimensions, NaN.
    Source: Binkowski et al. 2018, the estimator of Gretton et al. 2012, lemma 6.
    """
    real, fake = _checked("real", real, least=2), _checked("fake", fake, least=2)
    _same_dimension(real, fake)
    size = min(subset_size, len(real), len(fake))
    if size < 2 or num_subsets < 1:
        raise ValueError("kernel_distance needs 1 subset or more, of 2 samples or more")
    draw = np.random.default_rng(seed).choice
    distances = []
    for _ in range(num_subsets):
        x = real[draw(len(real), size, replace=False)].astype(np.float64)
        y = fake[draw(len(fake), size, replace=False)].astype(np.float64)
        within = sum((np.sum(k) - np.trace(k)) for k in (_kernel(x, x), _kernel(y, y)))
        distances.append(within / (size * (size - 1)) - 2 * np.mean(_kernel(x, y)))
    return Score(float(np.mean(distances)), float(np.std(distances)))


def inception_score(logits: np.ndarray, splits: int = 10) -> Score:
    """exp(E_x KL(p(y|x) || p(y))), averaged over consecutive splits: 1 to the number of classes.

    Args:
      logits: [N, K] of a classifier, N at least `splits`; in random order, not sorted by class.
    Raises:
      ValueError: fewer samples, or NaN or infinite ones.
    Source: Salimans et al. 2016.
    """
    if splits < 1:
        raise ValueError(f"inception_score needs 1 split or more, not {splits}")
    logits = _checked("logits", logits, least=splits)
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    scores = []
    for start, stop in itertools.pairwise(edges):
        log_p = logits[start:stop].astype(np.float64)
        log_p -= log_p.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        marginal = p.mean(axis=0)
        seen = marginal[marginal > 0]  # 0 log 0 is 0
        # The mean KL divergence is the entropy of the mean less the mean of the entropies.
        information = -np.sum(seen * np.log(seen)) + np.mean(np.sum(p * log_p, axis=1))
        scores.append(math.exp(information))
    return Score(float(np.mean(scores)), float(np.std(scores)))


def neighbour_radii(features: np.ndarray, ks: tuple[int, ...] = (3, 5)) -> dict[int, np.ndarray]:
    """The squared distance of each sample to its k-th nearest other, for each k.

    A sample is never its own neighbour; its duplicate is, at a distance of exactly 0.

    Args:
      features: [N, D], N at least max(ks) + 1.
    Returns:
      {k: float32 [N]}.
    Raises:
      ValueError: fewer samples, or NaN or infinite ones.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be 1 or more, not {ks}")
    features = _checked("features", features, least=max(ks) + 1)
    radii = {k: np.empty(len(features), np.float32) for k in ks}
    for rows, distances in _squared_distances(features, features):
        own = np.arange(rows.start, rows.stop)
        distances[own - rows.start, own] = np.inf
        distances.partition([k - 1 for k in radii], axis=1)
        for k, radius in radii.items():
            radius[rows] = distances[:, k - 1]
    return radii


def precision_recall_density_coverage(
    real: np.ndarray,
    fake: np.ndarray,
    real_radii: Mapping[int, np.ndarray] | None = None,
    manifold_k: int = 3,
    density_k: int = 5,
) -> NeighbourScores:
    """Four views of balls around samples that reach to their k-th nearest neighbour.

    Precision: the share of fakes in the ball of a real sample. Recall: the share of real samples in
    the ball of a fake. Density: how many real balls a fake is in, divided by k. Coverage: the share
    of real balls that a fake is in.

    Args:
      real, fake: features, [N, D] and [M, D].
      real_radii: `neighbour_radii(real, (manifold_k, density_k))`, where it was computed before.
      manifold_k: of precision and recall; a fake on a ball's surface is in it (<=).
      density_k: of density and coverage; one on the surface is not (<).
    Raises:
      ValueError: too few samples, unequal dimensions, NaN, radii of other samples or other k.
    Source: Kynkaanniemi et al. 2019; Naeem et al. 2020.
    """
    real = _checked("real", real, least=max(manifold_k, density_k) + 1)
    fake = _checked("fake", fake, least=manifold_k + 1)
    _same_dimension(real, fake)
    if real_radii is None:
        real_radii = neighbour_radii(real, (manifold_k, density_k))
    for k in (manifold_k, density_k):
        if k not in real_radii or len(real_radii[k]) != len(real):
            raise ValueError(f"real_radii must hold the {len(real)} radii of real for k = {k}")
    fake_radii = neighbour_radii(fake, (manifold_k,))[manifold_k]

    precise = np.zeros(len(fake), bool)
    recalled, covered, inside = 0, 0, 0
    for rows, distances in _squared_distances(real, fake):
        precise |= np.any(distances <= real_radii[manifold_k][rows, None], axis=0)
        recalled += int(np.count_nonzero(np.any(distances <= fake_radii, axis=1)))
        in_ball = distances < real_radii[density_k][rows, None]
        inside += int(np.count_nonzero(in_ball))
        covered += int(np.count_nonzero(np.any(in_ball, axis=1)))
    density = inside / (density_k * len(fake))
    return NeighbourScores(
        float(np.mean(precise)), recalled / len(real), density, covered / len(real)
    )


def memorisation(train: np.ndarray, held_out: np.ndarray, fake: np.ndarray) -> float:
    """The share of fakes that are nearer to a training sample than to any held-out one.

    A tie counts half. 0.5 is clean, 1 is a generator that has learnt its training set by heart.

    Args:
      train, held_out: [N, ...] features or images, equally many.
      fake: [M, ...].
    Raises:
      ValueError: not equally many, unequal dimensions, no sample, NaN.
    """
    if len(train) != len(held_out):
        raise ValueError(
            "memorisation needs equally many training and held-out samples, not "
            f"{len(train)} and {len(held_out)}"
        )
    train, held_out = _checked("train", _flat(train)), _checked("held_out", _flat(held_out))
    fake = _checked("fake", _flat(fake))
    _same_dimension(train, fake)
    _same_dimension(held_out, fake)
    nearest = np.empty((2, len(fake)), np.float32)
    for samples, row in zip((train, held_out), nearest):
        for rows, distances in _squared_distances(fake, samples):
            row[rows] = distances.min(axis=1)
    return float(np.mean(nearest[0] < nearest[1]) + np.mean(nearest[0] == nearest[1]) / 2)


def nearest(samples: np.ndarray, others: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of others to each sample, the nearest first, of equals the first.

    Args:
      samples, others: [N, ...] and [M, ...] features or images, M at least k.
    Returns:
      Indices int [N, k] and distances float32 [N, k].
    Raises:
      ValueError: fewer others, unequal dimensions, NaN.
    """
    samples, others = _checked("samples", _flat(samples)), _checked("others", _flat(others), k)
    _same_dimension(samples, others)
    indices, distances = np.empty((len(samples), k), int), np.empty((len(samples), k), np.float32)
    for rows, squared in _squared_distances(samples, others):
        own = np.arange(len(squared))
        for i in range(k):
            best = squared.argmin(axis=1)
            indices[rows, i], distances[rows, i] = best, np.sqrt(squared[own, best])
            squared[own, best] = np.inf
    return indices, distances


def num_modes(classes: np.ndarray, num_classes: int) -> int:
    """How many classes there is at least one sample of.

    Args:
      classes: int [N] in [0, num_classes); of a toy those of high quality only; N may be 0.
    Raises:
      ValueError: a class is out of range.
    Source: Metz et al. 2017; Lin et al. 2018.
    """
    return len(np.unique(_classes("classes", classes, num_classes)))


def mode_kl(classes: np.ndarray, data_distribution: np.ndarray) -> float:
    """KL(distribution of the generated classes || that of the data), in nats.

    Args:
      classes: int [N] in [0, K).
      data_distribution: [K], positive, of sum 1.
    Raises:
      ValueError: no sample, a class out of range, or that is no such distribution.
    Source: Metz et al. 2017; Lin et al. 2018, whose 'reverse KL' it is.
    """
    data = np.asarray(data_distribution, np.float64)
    if data.ndim != 1 or not (np.all(data > 0) and abs(data.sum() - 1) < 1e-6):
        raise ValueError("data_distribution must be [K], positive, of sum 1")
    classes = _classes("classes", classes, len(data))
    if len(classes) == 0:
        raise ValueError("classes has 0 samples, and 1 is needed")
    generated = np.bincount(classes, minlength=len(data)) / len(classes)
    seen = generated > 0
    return float(np.sum(generated[seen] * np.log(generated[seen] / data[seen])))


def label_accuracy(classes: np.ndarray, labels: np.ndarray) -> float:
    """The share of samples that a classifier takes for what they were made as.

    Args:
      classes, labels: int [N], as the classifier sees them, and as the generator was asked.
    Raises:
      ValueError: no sample, or unequal numbers.
    Source: Shmelkov et al. 2018, section 3.1 (GAN-test).
    """
    if len(classes) == 0 or np.shape(classes) != np.shape(labels):
        raise ValueError(f"label_accuracy of {len(classes)} classes and {len(labels)} labels")
    return float(np.mean(np.equal(classes, labels)))


def nearest_modes(
    points: np.ndarray, centres: np.ndarray, deviation: float
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each point, and whether it is nearer than 3 deviations.

    A mode counts as found by points of high quality only: `num_modes(classes[near], len(centres))`.

    Args:
      points: [N, D].
      centres: [K, D] of Gaussians of one standard deviation, `deviation`.
    Returns:
      classes int [N] in [0, K), and near, bool [N].
    Raises:
      ValueError: no point or no centre, unequal dimensions, NaN, a deviation not above 0.
    """
    points, centres = _checked("points", points), _checked("centres", centres)
    _same_dimension(points, centres)
    if not 0 < deviation < math.inf:
        raise ValueError(f"deviation must be above 0, not {deviation}")
    points = points.astype(np.float64)
    distances = np.stack([np.linalg.norm(points - centre, axis=1) for centre in centres], axis=1)
    return distances.argmin(axis=1), distances.min(axis=1) < 3 * deviation


def high_quality(points: np.ndarray, centres: np.ndarray, deviation: float) -> float:
    """The share of points nearer than 3 deviations to their nearest centre.

    In the plane a perfect generator has 1 - exp(-4.5) = 0.989 of them.

    Args and errors: as in `nearest_modes`.
    Source: Srivastava et al. 2017; Lin et al. 2018.
    """
    return float(np.mean(nearest_modes(points, centres, deviation)[1]))


def relative_deviation(real: np.ndarray, fake: np.ndarray) -> float:
    """The standard deviation of fakes across samples, relative to that of real samples.

    Both are averaged over pixels first. 1 for a perfect generator, 0 for constant samples.

    Args:
      real, fake: images or points, [N, ...] and [M, ...], at least 2 of each, in one range.
    Raises:
      ValueError: fewer samples, unequal dimensions, NaN, or real samples that are all equal.
    """
    real, fake = _checked("real", _flat(real), least=2), _checked("fake", _flat(fake), least=2)
    _same_dimension(real, fake)
    expected = _deviation(real)
    if expected == 0:
        raise ValueError("real samples are all equal: nothing is relative to a deviation of 0")
    return _deviation(fake) / expected


def expected_modes(num_samples: int, data_distribution: np.ndarray) -> float:
    """How many of the K modes a perfect generator shows in n samples: sum of 1 - (1 - p)^n."""
    return float(np.sum(1 - (1 - np.asarray(data_distribution, np.float64)) ** num_samples))


def expected_mode_kl(num_samples: int, num_classes: int) -> float:
    """The mode KL of a perfect generator at n samples, about (K - 1) / (2 n).

    The leading term in 1/n, for uniform data: too low by 1% at n = 26 K, by 13% at n = K.
    """
    return (num_classes - 1) / (2 * num_samples)


def expected_coverage(num_real: int, num_fake: int, k: int = 5) -> float:
    """The coverage of a perfect generator, whatever the distribution: 1 - 2^-k for large N = M.

    Source: Naeem et al. 2020.
    """
    missed = [(num_real - i) / (num_real + num_fake - i) for i in range(1, k + 1)]
    return 1 - math.prod(missed)


def _checked(name: str, array: np.ndarray, least: int = 1) -> np.ndarray:
    """The array, if it is [N, D] with enough finite samples."""
    array = np.asarray(array)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must be [N, D], not of shape {array.shape}")
    if len(array) < least:
        raise ValueError(f"{name} has {len(array)} samples, and {least} are needed")
    if not (
        float(array.min()) >= -LARGEST and float(array.max()) <= LARGEST
    ):  # also where one is NaN
        raise ValueError(f"{name} holds NaN, infinite values or some beyond {LARGEST:.0e}")
    return array


def _same_dimension(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"dimensions must be equal, not {a.shape[1]} and {b.shape[1]}")


def _classes(
    name: str, classes: np.ndarray, num_classes: int, length: int | None = None
) -> np.ndarray:
    """The classes, if they are integers [length] in [0, num_classes)."""
    classes = np.asarray(classes)
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{name} must be integers [N], not {classes.dtype} {classes.shape}")
    if length is not None and len(classes) != length:
        raise ValueError(f"{name} has {len(classes)} samples, and {length} are needed")
    if len(classes) and not (classes.min() >= 0 and classes.max() < num_classes):
        raise ValueError(f"{name} must be in [0, {num_classes})")
    return classes


def _flat(samples: np.ndarray) -> np.ndarray:
    """[N, ...] as [N, D]."""
    samples = np.asarray(samples)
    return samples.reshape(len(samples), math.prod(samples.shape[1:]))


def _blocks(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of an array, as float64 copies."""
    size = max(1, min(BLOCK_ROWS, BLOCK_NUMBERS // array.shape[1]))
    for start in range(0, len(array), size):
        rows = slice(start, min(start + size, len(array)))
        yield rows, array[rows].astype(np.float64)


def _mean(array: np.ndarray) -> np.ndarray:
    """The mean of the rows, [D]; relative to the first, so that a constant's mean is exact."""
    first = array[0].astype(np.float64)
    return first + sum(np.sum(block - first, axis=0) for _, block in _blocks(array)) / len(array)


def _deviation(array: np.ndarray) -> float:
    """The mean over columns of the unbiased standard deviation."""
    mean = _mean(array)
    squares = sum(np.sum((block - mean) ** 2, axis=0) for _, block in _blocks(array))
    return float(np.mean(np.sqrt(squares / (len(array) - 1))))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F with F F' = covariance, [D, rank]: eigenvalues within rounding of 0 are left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * EPSILON * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    linear = x @ y.T / x.shape[1] + 1
    return linear * linear * linear  # ten times faster than ** 3


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of some rows of `a` to all of `b`, float32 [rows, len(b)].

    |a|^2 + |b|^2 - 2 a'b in float64; what is within rounding of 0 is 0. Rounded to float32 because
    the last digits of a product depend on the block that it is computed in: ties stay ties.
    """
    rounding = a.shape[1] * EPSILON
    for rows, x in _blocks(a):
        distances = np.empty((len(x), len(b)), np.float32)
        for columns, y in _blocks(b):
            norms = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1)
            squared = norms - 2 * (x @ y.T)
            squared[squared <= rounding * norms] = 0
            distances[:, columns] = squared
        yield rows, distances


class Metric(NamedTuple):
    """A line of METRICS.

    Attributes:
      better: 'lower', 'higher', or the value that is best.
      meaning: in a few words.
      perfect: what a perfect generator scores on average with n samples, compared with m real
        ones, of K uniform modes; None where only held-out real data can tell: the floor.
    """

    better: str | float
    meaning: str
    perfect: Callable[[int, int, int], float] | None


METRICS = {
    "fd": Metric("lower", "Frechet distance of two Gaussians of features", None),
    "kd": Metric("lower", "kernel distance of features, squared MMD", lambda n, m, k: 0.0),
    "inception_score": Metric("higher", "classes are sure and diverse", None),
    "precision": Metric("higher", "share of fakes that look real", None),
    "recall": Metric("higher", "share of real samples that could be fake", None),
    "density": Metric("higher", "fakes where real samples are dense", lambda n, m, k: 1.0),
    "coverage": Metric(
        "higher",
        "share of real samples with a fake nearby",
        lambda n, m, k: expected_coverage(m, n),
    ),
    "modes": Metric(
        "higher", "classes that fakes show", lambda n, m, k: expected_modes(n, np.full(k, 1 / k))
    ),
    "mode_kl": Metric(
        "lower",
        "KL(classes of fakes || of the data), nats",
        lambda n, m, k: expected_mode_kl(n, k),
    ),
    "label_accuracy": Metric("higher", "share of fakes that show the class asked for", None),
    "memorisation": Metric(
        0.5, "share nearer to training than to held-out samples", lambda n, m, k: 0.5
    ),
    "high_quality": Metric(
        "higher", "share within 3 deviations of a mode", lambda n, m, k: 1 - math.exp(-4.5)
    ),
    "relative_deviation": Metric(
        1.0, "deviation across fakes over that of real samples", lambda n, m, k: 1.0
    ),
}

"""Metrics against independent implementations, closed forms and simulation.

`pytest -n0 -s tests/test_metrics.py` prints the largest relative error against each of them.
"""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from conftest import import_torch_fidelity
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

import metrics
from metrics import (
    METRICS,
    Gaussian,
    expected_coverage,
    expected_mode_kl,
    expected_modes,
    frechet_distance,
    frechet_distances_by_class,
    gaussian,
    high_quality,
    inception_score,
    kernel_distance,
    label_accuracy,
    memorisation,
    mode_kl,
    nearest_modes,
    neighbour_radii,
    num_modes,
    precision_recall_density_coverage,
    relative_deviation,
)

# Samples real and fake, dimension, shift and scale of the fakes.
CASES = [
    (400, 400, 8, 0.0, 1.0),
    (300, 200, 2, 0.5, 1.0),
    (250, 500, 64, 0.3, 0.8),
    (1100, 1030, 16, 1.0, 1.5),  # more than a block of rows
]
ERRORS: dict[str, float] = {}


@pytest.fixture(params=CASES, ids=str)
def features(request):
    num_real, num_fake, dimension, shift, scale = request.param
    rng = np.random.default_rng(7)
    mix = rng.normal(size=(dimension, dimension)) / math.sqrt(dimension) + np.eye(dimension)
    real = rng.normal(size=(num_real, dimension)) @ mix
    fake = rng.normal(size=(num_fake, dimension)) @ mix * scale + shift
    return real.astype(np.float32), fake.astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def report():
    yield
    for name, error in sorted(ERRORS.items()):
        print(f"\nlargest relative error, {name}: {error:.1e}", end="")


def agree(name: str, ours: float, theirs: float, tolerance: float = 1e-4) -> None:
    error = abs(ours - theirs) / abs(theirs) if theirs else float(ours != theirs)
    ERRORS[name] = max(error, ERRORS.get(name, 0.0))
    assert error <= tolerance, (name, ours, theirs)


def score(features) -> tuple[float, ...]:
    """All metrics of two arrays of features in one row."""
    real, fake = features
    return (
        frechet_distance(gaussian(real), gaussian(fake)),
        *kernel_distance(real, fake, num_subsets=2, subset_size=10_000),
        *precision_recall_density_coverage(real, fake),
        memorisation(real[: len(real) // 2], real[len(real) // 2 :][: len(real) // 2], fake),
        relative_deviation(real, fake),
    )


# Frechet distance


def test_gaussian_is_numpys(features):
    for array in features:
        mean, covariance = gaussian(array)
        assert mean.dtype == covariance.dtype == np.float64
        wide = array.astype(np.float64)
        np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(covariance, np.cov(wide, rowvar=False), rtol=1e-10, atol=1e-12)


def test_frechet_distance_by_sqrtm(features):
    (m1, s1), (m2, s2) = gaussians = [gaussian(array) for array in features]
    root = scipy.linalg.sqrtm(s1 @ s2)
    theirs = np.sum((m1 - m2) ** 2) + np.trace(s1 + s2 - 2 * np.real(root))
    agree("fd, scipy.linalg.sqrtm", frechet_distance(*gaussians), theirs)


def test_frechet_distance_by_torch_fidelity(features):
    fid = import_torch_fidelity("metric_fid")
    statistics = [
        fid.fid_features_to_statistics(fid.torch.from_numpy(array.astype(np.float64)))
        for array in features
    ]
    theirs = fid.fid_statistics_to_metric(*statistics, verbose=False)
    ours = frechet_distance(*map(gaussian, features))
    agree("fd, torch-fidelity", ours, theirs["frechet_inception_distance"])


def test_frechet_distance_in_closed_form():
    """Covariances that commute: |m1 - m2|^2 + sum (sqrt(l1) - sqrt(l2))^2, of any rank."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    for first, second in (
        ([1, 2, 3, 4, 5, 6], [2, 2, 1, 9, 1, 4]),
        ([1, 2, 3, 0, 0, 0], [2, 2, 0, 9, 0, 4]),
        ([1, 1e-6, 0, 0, 0, 0], [1, 4e-6, 0, 0, 0, 7]),
        ([0] * 6, [1, 2, 3, 4, 5, 6]),
        ([0] * 6, [0] * 6),
    ):
        roots = np.sqrt(first) - np.sqrt(second)
        real = Gaussian(np.zeros(6), basis * np.array(first, float) @ basis.T)
        fake = Gaussian(np.ones(6), basis * np.array(second, float) @ basis.T)
        assert frechet_distance(real, fake) == pytest.approx(6 + np.sum(roots**2), abs=1e-12)


@pytest.mark.parametrize("shape", [(500, 8), (20, 64), (2, 3)])
def test_frechet_distance_of_equals_is_zero(shape):
    same = gaussian(np.random.default_rng(0).normal(100, 10, shape).astype(np.float32))
    assert 0 <= frechet_distance(same, same) <= 1e-12 * np.trace(same.covariance)
    shifted = Gaussian(same.mean + 1, same.covariance)
    assert frechet_distance(same, shifted) == pytest.approx(shape[1], rel=1e-10)


def test_frechet_distance_to_a_constant():
    """Nothing is left but the difference of the means and the real trace."""
    real = gaussian(np.random.default_rng(0).normal(size=(30, 64)))
    constant = gaussian(np.full((9, 64), 0.1))
    assert not constant.covariance.any()
    expected = np.sum((real.mean - 0.1) ** 2) + np.trace(real.covariance)
    assert frechet_distance(real, constant) == pytest.approx(expected, rel=1e-12)


def test_frechet_distances_by_class():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(60, 3)), rng.normal(size=(50, 3))
    real_classes, fake_classes = np.arange(60) % 3, np.arange(50) % 2
    fake_classes[0] = 2  # one sample of class 2 is not enough
    distances = frechet_distances_by_class(real, real_classes, fake, fake_classes, 4)
    assert distances[2:] == [None, None]
    for c in (0, 1):
        members = real[real_classes == c], fake[fake_classes == c]
        assert distances[c] == frechet_distance(*map(gaussian, members))


# Kernel distance


def mmd(real, fake) -> float:
    """The unbiased estimate, of scikit-learn's kernel."""
    within = 0.0
    for x in (real, fake):
        kernel = polynomial_kernel(x, degree=3, coef0=1)
        np.fill_diagonal(kernel, 0)
        within += kernel.sum() / (len(x) * (len(x) - 1))
    return within - 2 * polynomial_kernel(real, fake, degree=3, coef0=1).mean()


def test_kernel_distance_by_scikit_learn(features):
    size = min(1000, *map(len, features))
    real, fake = (array[:size].astype(np.float64) for array in features)
    ours = kernel_distance(real, fake, num_subsets=2)
    assert ours.std == pytest.approx(0, abs=1e-9)  # the subsets are the whole
    agree("kd, scikit-learn", ours.mean, mmd(real, fake))


def test_kernel_distance_by_torch_fidelity(features):
    kid = import_torch_fidelity("metric_kid")
    real, fake = (array[:200] for array in features)
    tensors = [kid.torch.from_numpy(array.astype(np.float64)) for array in (real, fake)]
    theirs = kid.kid_features_to_metric(
        *tensors, kid_subsets=1, kid_subset_size=200, verbose=False
    )["kernel_inception_distance_mean"]
    agree("kd, torch-fidelity", kernel_distance(real, fake).mean, theirs)


def test_kernel_distance_of_subsets_by_torch_fidelity():
    """Other subsets of the same samples: the means agree within their standard errors."""
    kid = import_torch_fidelity("metric_kid")
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(800, 4)), rng.normal(0.5, 1, size=(900, 4))
    ours = kernel_distance(real, fake, subset_size=100)
    theirs = kid.kid_features_to_metric(
        kid.torch.from_numpy(real), kid.torch.from_numpy(fake), kid_subset_size=100, verbose=False
    )
    mean, std = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert ours.mean == pytest.approx(mean, abs=4 * math.hypot(ours.std, std) / 10)
    assert ours.std == pytest.approx(std, rel=0.5)
    assert ours == kernel_distance(real, fake, subset_size=100)
    assert ours != kernel_distance(real, fake, subset_size=100, seed=1)


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(0)
    values = [kernel_distance(*rng.normal(size=(2, 20, 3)), num_subsets=1).mean for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20


def test_kernel_distance_in_closed_form():
    """Constant samples a and b: (|a|^2/d + 1)^3 + (|b|^2/d + 1)^3 - 2 (ab/d + 1)^3."""
    a, b = np.full((5, 2), 1.0), np.full((7, 2), 3.0)
    assert kernel_distance(a, b).mean == pytest.approx(2**3 + 10**3 - 2 * 4**3, rel=1e-12)
    assert kernel_distance(a, a).mean == pytest.approx(0, abs=1e-12)


# Inception score


@pytest.mark.parametrize(
    ("num_samples", "num_classes", "scale"), [(500, 10, 3), (1003, 1000, 1), (37, 2, 50)]
)
def test_inception_score_by_torch_fidelity(num_samples, num_classes, scale):
    isc = import_torch_fidelity("metric_isc")
    logits = np.random.default_rng(0).normal(0, scale, (num_samples, num_classes))
    for splits in (1, 10):
        theirs = isc.isc_features_to_metric(isc.torch.from_numpy(logits), splits, shuffle=False)
        ours = inception_score(logits.astype(np.float32), splits)
        agree("inception_score, torch-fidelity", ours.mean, theirs["inception_score_mean"])
        assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-4, abs=1e-6)


def test_inception_score_by_scipy():
    logits = np.random.default_rng(0).normal(0, 3, (200, 5))
    p = scipy.special.softmax(logits, axis=1)
    divergence = scipy.stats.entropy(p, p.mean(axis=0)[None], axis=1)
    agree("inception_score, scipy", inception_score(logits, 1).mean, math.exp(divergence.mean()))


def test_inception_score_in_closed_form():
    sure = 1e6 * np.eye(4)[np.arange(40) % 4]  # probabilities of exactly 0 and 1
    assert inception_score(sure) == pytest.approx((4, 0))
    assert inception_score(sure[::4]) == pytest.approx((1, 0))
    assert inception_score(np.zeros((40, 4))) == pytest.approx((1, 0))


# Precision, recall, density, coverage


def test_precision_recall_density_coverage_by_prdc(features, capsys):
    prdc = pytest.importorskip("prdc")
    for k in (3, 5):
        theirs = prdc.compute_prdc(*(array.astype(np.float64) for array in features), nearest_k=k)
        ours = precision_recall_density_coverage(*features, manifold_k=k, density_k=k)
        for name, value in ours._asdict().items():
            agree(f"{name}, prdc", value, theirs[name])


def test_precision_and_recall_by_torch_fidelity(features):
    prc = import_torch_fidelity("metric_prc")
    real, fake = (prc.torch.from_numpy(array.astype(np.float64)) for array in features)
    theirs = prc.prc_features_to_metric(fake, real, verbose=False)
    ours = precision_recall_density_coverage(*features)
    agree("precision, torch-fidelity", ours.precision, theirs["precision"])
    agree("recall, torch-fidelity", ours.recall, theirs["recall"])


def test_neighbour_radii_by_scikit_learn(features):
    for array in features:
        wide = array.astype(np.float64)
        theirs = NearestNeighbors(algorithm="brute").fit(wide).kneighbors(n_neighbors=5)[0]
        ours = neighbour_radii(array, (3, 5))
        for k in (3, 5):
            np.testing.assert_allclose(np.sqrt(ours[k]), theirs[:, k - 1], rtol=1e-6)


def test_real_radii_are_reused(features):
    real, fake = features
    radii = neighbour_radii(real)
    expected = precision_recall_density_coverage(real, fake)
    assert precision_recall_density_coverage(real, fake, radii) == expected
    with pytest.raises(ValueError, match="radii of real for k = 4"):
        precision_recall_density_coverage(real, fake, radii, manifold_k=4)
    with pytest.raises(ValueError, match="radii of real"):
        precision_recall_density_coverage(real[1:], fake, radii)


def test_neighbours_of_the_same_samples():
    same = np.random.default_rng(0).normal(size=(200, 8))
    precision, recall, density, coverage = precision_recall_density_coverage(same, same)
    assert precision == recall == coverage == 1
    assert density == 1  # itself and k - 1 neighbours, strictly inside


def test_neighbours_of_constants():
    """All at one point the radii are 0: within (<=) them, never strictly inside (<)."""
    rng = np.random.default_rng(0)
    for value in (0.0, 0.1, 1e6, rng.normal(size=7) * 1e3):
        constant = np.zeros((20, 7)) + value
        assert precision_recall_density_coverage(constant, constant) == (1, 1, 0, 0)
        assert precision_recall_density_coverage(constant, constant + 1) == (0, 0, 0, 0)
        assert not neighbour_radii(constant)[5].any()


def test_own_distance_is_left_out():
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    radii = neighbour_radii(line, (1, 2))
    assert radii[1].tolist() == [1, 1, 4, 16]
    assert radii[2].tolist() == [9, 4, 9, 36]
    twice = np.repeat(line, 2, axis=0)
    assert not neighbour_radii(twice, (1,))[1].any()  # but a duplicate is a neighbour


def test_a_tie_is_within_but_not_inside():
    """A fake exactly on the surface of every real ball, in integers."""
    real = np.array([[0.0], [2.0], [4.0]])
    fake = np.array([[-2.0], [6.0]])
    scores = precision_recall_density_coverage(real, fake, manifold_k=1, density_k=1)
    assert scores == (1, 1, 0, 0)


def test_duplicates_tie_far_from_the_origin():
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(300, 33)) + 1e4).astype(np.float32)
    twice = rng.permutation(np.concatenate([points, points]))
    assert not neighbour_radii(twice, (1,))[1].any()
    assert neighbour_radii(points, (1,))[1].all()
    assert memorisation(points, points[::-1], twice) == 0.5


# Modes


def test_mode_kl_by_scipy():
    rng = np.random.default_rng(0)
    for num_classes in (2, 10, 1000):
        data = rng.dirichlet(np.ones(num_classes))
        classes = rng.choice(num_classes, 500)
        counts = np.bincount(classes, minlength=num_classes)
        agree(
            "mode_kl, scipy.stats.entropy",
            mode_kl(classes, data),
            scipy.stats.entropy(counts, data),
        )
        assert num_modes(classes, num_classes) == np.count_nonzero(counts)


def test_modes_of_a_collapsed_generator():
    uniform = np.full(1000, 1 / 1000)
    collapsed = np.full(26_000, 123)
    assert num_modes(collapsed, 1000) == 1
    assert mode_kl(collapsed, uniform) == pytest.approx(math.log(1000))
    assert mode_kl(np.arange(1000), uniform) == pytest.approx(0, abs=1e-12)
    assert num_modes(np.empty(0, int), 8) == 0


def test_the_floor_of_modes_by_simulation():
    assert expected_mode_kl(26_000, 1000) == pytest.approx(0.019, abs=5e-4)
    rng = np.random.default_rng(0)
    for num_samples, num_classes in ((26_000, 1000), (2500, 25), (1000, 1000)):
        uniform = np.full(num_classes, 1 / num_classes)
        runs = [rng.choice(num_classes, num_samples) for _ in range(50)]
        divergence = np.mean([mode_kl(run, uniform) for run in runs])
        modes = np.mean([num_modes(run, num_classes) for run in runs])
        tolerance = 0.2 if num_samples <= num_classes else 0.1
        assert divergence == pytest.approx(
            expected_mode_kl(num_samples, num_classes), rel=tolerance
        )
        assert modes == pytest.approx(expected_modes(num_samples, uniform), rel=5e-3)
    assert expected_modes(1, np.array([1.0])) == 1


# Toys


RING = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)


def test_high_quality_of_a_perfect_generator():
    rng = np.random.default_rng(0)
    origin = rng.choice(8, 20_000)
    points = RING[origin] + rng.normal(0, 0.02, (20_000, 2))
    classes, near = nearest_modes(points, RING, 0.02)
    np.testing.assert_array_equal(classes, origin)
    assert near.mean() == high_quality(points, RING, 0.02)
    perfect = 1 - math.exp(-4.5)
    assert near.mean() == pytest.approx(
        perfect, abs=4 * math.sqrt(perfect * (1 - perfect) / 20_000)
    )


def test_nearest_modes_by_scikit_learn():
    points = np.random.default_rng(0).normal(size=(500, 2))
    distances, nearest = NearestNeighbors(n_neighbors=1).fit(RING).kneighbors(points)
    classes, near = nearest_modes(points, RING, 0.1)
    np.testing.assert_array_equal(classes, nearest[:, 0])
    agree("high_quality, scikit-learn", near.mean(), np.mean(distances < 0.3))


def test_modes_count_among_high_quality_only():
    points = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 0.8]])  # the last is far from its mode
    classes, near = nearest_modes(points, RING, 0.02)
    assert classes.tolist() == [0, 0, 2]
    assert near.tolist() == [True, True, False]
    assert num_modes(classes[near], 8) == 1
    assert num_modes(classes[:0], 8) == 0


# Memorisation and deviation


def test_memorisation_by_scikit_learn(features):
    real, fake = (array.astype(np.float64) for array in features)
    half = len(real) // 2
    nearest = [
        NearestNeighbors(n_neighbors=1).fit(part).kneighbors(fake)[0]
        for part in (real[:half], real[half : 2 * half])
    ]
    agree(
        "memorisation, scikit-learn",
        memorisation(real[:half], real[half : 2 * half], fake),
        np.mean(nearest[0] < nearest[1]),
    )


def test_memorisation_of_copies():
    train, held_out = np.random.default_rng(0).integers(0, 256, (2, 50, 4, 4, 3)).astype(np.uint8)
    assert memorisation(train, held_out, train[:20]) == 1
    assert memorisation(train, held_out, held_out) == 0
    assert memorisation(train, train[::-1], held_out) == 0.5  # every one a tie
    assert memorisation(train, held_out, np.concatenate([train, held_out])) == 0.5


def test_relative_deviation():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (2000, 4, 4, 3)).astype(np.uint8)
    assert relative_deviation(real, real) == 1
    assert relative_deviation(real, np.full((5, 4, 4, 3), 77, np.uint8)) == 0
    assert relative_deviation(real, np.full((2000, 4, 4, 3), 0.1, np.float32)) == 0
    fresh = rng.integers(0, 256, (2000, 4, 4, 3))
    assert relative_deviation(real, fresh) == pytest.approx(1, abs=0.02)
    expected = fresh.std(axis=0, ddof=1).mean() / real.std(axis=0, ddof=1).mean()
    agree("relative_deviation, numpy", relative_deviation(real, fresh), expected)
    agree(
        "relative_deviation, numpy",
        relative_deviation(real, fresh // 2 * 1.0),
        (fresh // 2).std(axis=0, ddof=1).mean() / real.std(axis=0, ddof=1).mean(),
    )


# Invariances, memory, errors, table


def test_order_of_samples_does_not_matter(features):
    rng = np.random.default_rng(1)
    size = min(600, *map(len, features))  # of which the subsets are the whole
    first = [array[:size] for array in features]
    second = [rng.permutation(array) for array in first]
    for metric in (
        lambda real, fake: frechet_distance(gaussian(real), gaussian(fake)),
        lambda real, fake: kernel_distance(real, fake, num_subsets=1).mean,
        precision_recall_density_coverage,
        relative_deviation,
    ):
        assert metric(*first) == pytest.approx(metric(*second), rel=1e-9)


@pytest.mark.parametrize("rows", [3, 100])
def test_size_of_blocks_does_not_matter(rows, monkeypatch):
    rng = np.random.default_rng(0)
    real = rng.normal(size=(240, 12)).astype(np.float32)
    fake = np.concatenate([real[::3], real[:50] + np.float32(0.1)])  # with ties
    whole = score((real, fake))
    radii = neighbour_radii(real)
    monkeypatch.setattr(metrics, "BLOCK_ROWS", rows)
    assert score((real, fake)) == pytest.approx(whole, rel=1e-12, abs=1e-14)
    assert score((real, fake))[3:8] == whole[3:8]
    np.testing.assert_array_equal(neighbour_radii(real)[5], radii[5])


def test_input_is_not_changed():
    real, fake = np.random.default_rng(0).normal(size=(2, 60, 4))
    copies = real.copy(), fake.copy()
    score((real, fake))
    inception_score(real)
    nearest_modes(real, fake, 1.0)
    np.testing.assert_array_equal(real, copies[0])
    np.testing.assert_array_equal(fake, copies[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int64])
def test_any_dtype_is_computed_in_float64(dtype):
    real, fake = np.random.default_rng(0).integers(0, 200, (2, 80, 5)).astype(dtype)
    assert score((real, fake)) == pytest.approx(
        score((real.astype(np.float64), fake.astype(np.float64))), rel=1e-12
    )


@pytest.mark.parametrize(
    ("function", "shape", "megabytes"),
    [
        (lambda real, fake: gaussian(real), (12_000, 1000), 96),  # a copy in float64
        (relative_deviation, (12_000, 1000), 96),
        (lambda real, fake: kernel_distance(real, fake, 2), (12_000, 1000), 96),
        (precision_recall_density_coverage, (6000, 100), 144),  # all distances in float32
        (lambda real, fake: memorisation(real, fake, real), (6000, 100), 144),
    ],
    ids=["gaussian", "relative_deviation", "kernel_distance", "neighbours", "memorisation"],
)
def test_memory_is_blockwise(function, shape, megabytes):
    """At most two thirds of what the whole would take."""
    real, fake = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    tracemalloc.start()
    function(real, fake)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    print(f"peak {peak:.0f} MB")
    assert peak < 2 / 3 * megabytes, f"{peak:.0f} MB"


GOOD = np.random.default_rng(0).normal(size=(20, 3))
BAD = {"NaN": np.nan, "infinite": np.inf, "-infinite": -np.inf, "beyond": 1e20}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(
    "function",
    [
        lambda bad: gaussian(bad),
        lambda bad: frechet_distances_by_class(GOOD, np.zeros(20, int), bad, np.zeros(20, int), 1),
        lambda bad: kernel_distance(GOOD, bad),
        lambda bad: kernel_distance(bad, GOOD),
        lambda bad: inception_score(bad),
        lambda bad: neighbour_radii(bad),
        lambda bad: precision_recall_density_coverage(GOOD, bad),
        lambda bad: precision_recall_density_coverage(bad, GOOD, neighbour_radii(GOOD)),
        lambda bad: memorisation(GOOD, bad, GOOD),
        lambda bad: memorisation(GOOD, GOOD, bad),
        lambda bad: high_quality(bad, GOOD, 1.0),
        lambda bad: high_quality(GOOD, bad, 1.0),
        lambda bad: relative_deviation(GOOD, bad),
    ],
)
def test_no_number_of_bad_samples(function, kind):
    bad = GOOD.copy()
    bad[3, 1] = BAD[kind]
    with pytest.raises(ValueError, match="holds NaN, infinite values") as error:
        function(bad)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian(GOOD[:1]), "1 samples, and 2 are needed"),
        (lambda: gaussian(GOOD[0]), r"must be \[N, D\], not of shape \(3,\)"),
        (lambda: gaussian(GOOD[:, :0]), r"must be \[N, D\]"),
        (lambda: frechet_distance(gaussian(GOOD), gaussian(GOOD[:, :2])), "equal, not 3 and 2"),
        (lambda: frechet_distance(gaussian(GOOD), Gaussian(np.full(3, np.nan), np.eye(3))), "NaN"),
        (
            lambda: frechet_distances_by_class(GOOD, np.zeros(19, int), GOOD, np.zeros(20, int), 1),
            "real_classes has 19",
        ),
        (
            lambda: frechet_distances_by_class(GOOD, np.zeros(20, int), GOOD, np.ones(20, int), 1),
            r"in \[0, 1\)",
        ),
        (lambda: kernel_distance(GOOD[:1], GOOD), "real has 1 samples, and 2"),
        (lambda: kernel_distance(GOOD, GOOD[:, :2]), "equal, not 3 and 2"),
        (lambda: kernel_distance(GOOD, GOOD, num_subsets=0), "1 subset or more"),
        (lambda: kernel_distance(GOOD, GOOD, subset_size=1), "2 samples or more"),
        (lambda: inception_score(GOOD[:9]), "logits has 9 samples, and 10"),
        (lambda: inception_score(GOOD, 0), "1 split or more"),
        (lambda: neighbour_radii(GOOD[:5]), "5 samples, and 6"),
        (lambda: neighbour_radii(GOOD, (0, 3)), "1 or more"),
        (lambda: neighbour_radii(GOOD, ()), "1 or more"),
        (lambda: precision_recall_density_coverage(GOOD[:5], GOOD), "real has 5 samples, and 6"),
        (lambda: precision_recall_density_coverage(GOOD, GOOD[:3]), "fake has 3 samples, and 4"),
        (lambda: precision_recall_density_coverage(GOOD, GOOD[:, :2]), "equal, not 3 and 2"),
        (lambda: memorisation(GOOD, GOOD[1:], GOOD), "equally many .* not 20 and 19"),
        (lambda: memorisation(GOOD, GOOD, GOOD[:, :2]), "equal, not 3 and 2"),
        (lambda: memorisation(GOOD, GOOD, GOOD[:0]), "fake has 0 samples, and 1"),
        (lambda: num_modes(np.array([0, 8]), 8), r"in \[0, 8\)"),
        (lambda: num_modes(np.array([-1]), 8), r"in \[0, 8\)"),
        (lambda: num_modes(np.array([0.0]), 8), r"integers \[N\], not float64"),
        (lambda: mode_kl(np.array([0]), np.array([1.0, 0.0])), "positive, of sum 1"),
        (lambda: mode_kl(np.array([0]), np.array([0.5, 0.6])), "positive, of sum 1"),
        (lambda: mode_kl(np.array([0]), np.array([0.5, np.nan])), "positive, of sum 1"),
        (lambda: mode_kl(np.empty(0, int), np.array([0.5, 0.5])), "0 samples, and 1"),
        (lambda: high_quality(GOOD, GOOD, 0.0), "deviation must be above 0"),
        (lambda: high_quality(GOOD, GOOD[:, :2], 1.0), "equal, not 3 and 2"),
        (lambda: relative_deviation(GOOD, GOOD[:1]), "fake has 1 samples, and 2"),
        (lambda: relative_deviation(np.ones((5, 2)), GOOD[:, :2]), "all equal"),
        (lambda: relative_deviation(GOOD, GOOD[:, :2]), "equal, not 3 and 2"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_table():
    names = "fd kd inception_score precision recall density coverage modes mode_kl label_accuracy"
    assert list(METRICS) == [*names.split(), "memorisation", "high_quality", "relative_deviation"]
    for metric in METRICS.values():
        assert metric.better in ("lower", "higher") or isinstance(metric.better, float)
        if isinstance(metric.better, float):
            assert metric.perfect is not None
            assert metric.perfect(1000, 1000, 10) == metric.better
        assert metric.perfect is None or math.isfinite(metric.perfect(1000, 1000, 10))
    assert METRICS["modes"].perfect(26_000, 26_000, 1000) == pytest.approx(1000)
    assert METRICS["mode_kl"].perfect(26_000, 26_000, 1000) == 999 / 52_000
    assert METRICS["coverage"].perfect(10**6, 10**6, 1) == pytest.approx(1 - 2**-5, rel=1e-5)
    assert METRICS["coverage"].perfect(10_000, 1_297, 1) == expected_coverage(1_297, 10_000)


@pytest.mark.parametrize("dimension", [1, 20])
def test_density_and_coverage_of_a_perfect_generator_by_simulation(dimension):
    rng = np.random.default_rng(dimension)
    runs = [
        precision_recall_density_coverage(
            rng.normal(size=(60, dimension)), rng.normal(size=(40, dimension))
        )
        for _ in range(300)
    ]
    density, coverage = np.mean(runs, axis=0)[2:]
    errors = np.std(runs, axis=0)[2:] / math.sqrt(len(runs))
    assert density == pytest.approx(1, abs=4 * errors[0])
    assert coverage == pytest.approx(expected_coverage(60, 40), abs=4 * errors[1])


def test_label_accuracy_is_the_share_of_equal_ones():
    assert label_accuracy(np.array([1, 2, 3, 3]), np.array([1, 2, 3, 0])) == 0.75
    with pytest.raises(ValueError, match="0 classes"):
        label_accuracy(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="2 classes and 3 labels"):
        label_accuracy(np.zeros(2), np.zeros(3))


def test_nearest_is_what_sorting_all_distances_gives():
    rng = np.random.default_rng(0)
    samples, others = rng.normal(size=(7, 2, 3)), rng.normal(size=(50, 2, 3))
    others[9] = others[4]  # of equals the first
    distances = np.linalg.norm((samples[:, None] - others[None]).reshape(7, 50, 6), axis=-1)
    indices, found = metrics.nearest(samples, others, 50)
    np.testing.assert_array_equal(indices, np.argsort(distances, axis=1, kind="stable"))
    np.testing.assert_allclose(found, np.sort(distances, axis=1), rtol=1e-5)
    with pytest.raises(ValueError, match="others has 50 samples, and 51 are needed"):
        metrics.nearest(samples, others, 51)

"""Augmentations: what they do, and that nothing else happens."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.test_util import check_grads

from augment import AUGMENTATIONS, D_AUGMENTATIONS, _resample, adapt, crop, d_augment, flip

IMAGES = jax.random.uniform(jax.random.key(0), (64, 6, 6, 2), minval=-1.0, maxval=1.0)
KEY = jax.random.key(1)


def test_flip_mirrors_with_its_probability():
    np.testing.assert_array_equal(flip(KEY, IMAGES, 1.0), IMAGES[:, :, ::-1])
    np.testing.assert_array_equal(flip(KEY, IMAGES, 0.0), IMAGES)
    flipped = flip(KEY, jnp.repeat(IMAGES[:1], 4_000, axis=0), 0.25)
    mirrored = (flipped == IMAGES[:1, :, ::-1]).all((1, 2, 3))
    assert abs(float(mirrored.mean()) - 0.25) < 0.03  # over four standard errors


def test_crop_shifts_each_image_within_its_margin():
    cropped = np.asarray(crop(KEY, IMAGES, 2))
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    corners = set()
    for image, source in zip(cropped, padded):
        places = [(i, j) for i in range(5) for j in range(5)]
        match = [(i, j) for i, j in places if (source[i : i + 6, j : j + 6] == image).all()]
        assert match
        corners.add(match[0])
    assert len(corners) > 15  # of 25: every image has its own


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation(name):
    augmentation = AUGMENTATIONS[name]
    np.testing.assert_array_equal(augmentation(KEY, IMAGES, 0), IMAGES)
    outputs = augmentation(KEY, IMAGES, 1)
    assert outputs.shape == IMAGES.shape
    np.testing.assert_array_equal(outputs, jax.jit(augmentation, static_argnums=2)(KEY, IMAGES, 1))
    gradient = jax.grad(lambda images: (augmentation(KEY, images, 1) ** 2).sum())(IMAGES)
    assert np.isfinite(gradient).all()
    keys = jax.random.split(KEY, 3)
    stacked = jax.vmap(lambda key: augmentation(key, IMAGES, 1))(keys)
    np.testing.assert_array_equal(stacked[2], augmentation(keys[2], IMAGES, 1))


ALL = tuple((name, 1.0) for name in D_AUGMENTATIONS)
R3GAN = (("chromatic", 0.5), ("cutout", 1.0), ("geometric", 1.0))


def random_image(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1.0, maxval=1.0)


@partial(jax.jit, static_argnums=(0, 3))
def draw(name: str, image: jax.Array, probability: float, num: int) -> jax.Array:
    """One image transformed by `num` keys: [num, H, W, C]."""
    keys = jax.random.split(KEY, num)
    return jax.vmap(D_AUGMENTATIONS[name], (0, None, None))(keys, image, probability)


compiled = jax.jit(d_augment, static_argnums=0)


@pytest.mark.parametrize(
    ("transforms", "shape"),
    [
        *(((pair,), shape) for pair in ALL for shape in ((8, 8, 1), (28, 28, 3))),
        *((ALL, shape) for shape in ((8, 8, 1), (28, 28, 3), (6, 9, 2))),
    ],
)
def test_every_discriminator_augmentation(transforms, shape):
    """Alone, and all of them after one another."""
    images, others = random_image(3, *shape), random_image(3, *shape, seed=5)
    keys = jax.random.split(KEY, 3)
    outputs = compiled(transforms, keys, images, 0.7)
    assert outputs.shape == images.shape
    assert outputs.dtype == jnp.float32
    programs = compiled._cache_size()

    # Probability 0 leaves every bit, of odd numbers too.
    odd = images.at[:, 0, :6, 0].set(jnp.array([-0.0, 0.0, 7.0, -1e30, 3e38, jnp.inf]))
    same = np.asarray(compiled(transforms, keys, odd, 0.0))
    np.testing.assert_array_equal(same.view(np.uint32), np.asarray(odd).view(np.uint32))

    # One key's transform is affine: the same whatever the image.
    mean = (compiled(transforms, keys, images, 0.9) + compiled(transforms, keys, others, 0.9)) / 2
    of_mean = compiled(transforms, keys, (images + others) / 2, 0.9)
    np.testing.assert_allclose(of_mean, mean, atol=1e-4)

    assert (compiled(transforms, keys, images, 1.0) != images).any()
    assert compiled._cache_size() == programs  # the probability is a number of the program

    for i in range(3):
        alone = compiled(transforms, keys[i : i + 1], images[i : i + 1], 0.7)[0]
        np.testing.assert_allclose(outputs[i], alone, atol=2e-5)


@pytest.mark.parametrize("name", D_AUGMENTATIONS)
def test_eager_agrees_and_both_derivatives_are_right(name):
    image = random_image(4, 4, 3)
    key = jax.random.key(3)
    transform = jax.jit(partial(D_AUGMENTATIONS[name], key, probability=0.9))
    np.testing.assert_allclose(D_AUGMENTATIONS[name](key, image, 0.9), transform(image), atol=1e-5)
    untouched = jax.grad(lambda x: D_AUGMENTATIONS[name](key, x, 0.0).sum())
    np.testing.assert_array_equal(untouched(image.at[0, 0, 0].set(jnp.inf)), np.ones_like(image))
    check_grads(lambda x: jnp.tanh(transform(x)).sum(), (image,), 2, ["rev"], atol=0.03, rtol=0.03)


def test_a_gradient_penalty_passes_through():
    images, keys = random_image(4, 8, 8, 3), jax.random.split(KEY, 4)
    weights = jax.random.normal(jax.random.key(2), (192, 8))

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradient(weights, images, probability):
        def logits(images):
            seen = d_augment(ALL, keys, images, probability).reshape(4, -1)
            return jnp.tanh(seen @ weights / 14).sum()

        return jnp.square(jax.grad(logits)(images)).sum()

    for probability in (0.0, 0.5, 1.0):
        for leaf in gradient(weights, images, probability):
            assert np.isfinite(leaf).all()
            assert (leaf != 0).any()


@pytest.mark.slow
def test_transforms_do_not_depend_on_each_other():
    images, keys = jnp.ones((16, 8, 8, 3)), jax.random.split(KEY, 16)
    alone = d_augment((("cutout", 1.0),), keys, images, 0.5)
    together = d_augment((("color", 1.0), ("cutout", 1.0)), keys, images, 0.5)
    np.testing.assert_array_equal((together == 0).all(-1), (alone == 0).all(-1))
    backward = d_augment(R3GAN[::-1], keys, images, 0.5)
    np.testing.assert_array_equal(backward, d_augment(R3GAN, keys, images, 0.5))
    members = jax.vmap(partial(d_augment, R3GAN, keys, images))(jnp.array([0.0, 0.5]))
    np.testing.assert_array_equal(members[0], images)
    np.testing.assert_allclose(members[1], backward, atol=1e-5)
    with pytest.raises(ValueError, match="mirror"):
        d_augment((("mirror", 1.0),), keys, images, 0.5)


def test_a_multiplier_is_of_the_probability():
    images, keys = jnp.ones((4_000, 8, 8, 1)), jax.random.split(KEY, 4_000)
    for multiplier, share in ((0.5, 0.3), (1.0, 0.6), (3.0, 1.0)):
        outputs = jax.jit(partial(d_augment, (("cutout", multiplier),)))(keys, images, 0.6)
        assert abs(float((outputs == 0).any((1, 2, 3)).mean()) - share) < 0.035


# Color has one choice, chromatic four whose effect is certain and a sign that is + half the time;
# an eighth of 28 is 4 pixels, so that one shift in 81 is none.
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("color", lambda p: 1 - p),
        ("translation", lambda p: 1 - p * 80 / 81),
        ("noise", lambda p: 1 - p),
        ("cutout", lambda p: 1 - p),
        ("chromatic", lambda p: (1 - p) ** 4 * (1 - p / 2)),
    ],
)
@pytest.mark.parametrize("probability", [0.2, 0.7, 1.0])
def test_share_of_images_that_stay(name, kept, probability):
    image = random_image(28, 28, 3)
    outputs = draw(name, image, probability, 2_000)
    share = float(jnp.isclose(outputs, image, atol=1e-6).all((1, 2, 3)).mean())
    assert abs(share - kept(probability)) < 0.045  # four standard errors


def test_color_is_brightness_then_saturation_then_contrast():
    image = np.asarray(random_image(8, 8, 3), np.float64)
    outputs = np.asarray(draw("color", jnp.float32(image), 1.0, 1_000), np.float64)
    luma = image.mean(-1, keepdims=True)
    chroma = image - luma
    out_luma = outputs.mean(-1, keepdims=True)
    brightness = outputs.mean((1, 2, 3)) - image.mean()  # the other two keep the mean
    contrast = ((out_luma - out_luma.mean((1, 2), keepdims=True)) * (luma - luma.mean())).sum(
        (1, 2, 3)
    )
    contrast /= ((luma - luma.mean()) ** 2).sum()
    saturation = ((outputs - out_luma) * chroma).sum((1, 2, 3)) / (chroma**2).sum() / contrast
    for output, b, s, c in zip(outputs, brightness, saturation, contrast):
        brighter = image + b
        grey = brighter.mean(-1, keepdims=True)
        saturated = grey + s * (brighter - grey)
        expected = saturated.mean() + c * (saturated - saturated.mean())
        np.testing.assert_allclose(output, expected, atol=1e-5)
    for values, low, high in ((brightness, -0.5, 0.5), (saturation, 0, 2), (contrast, 0.5, 1.5)):
        assert low - 1e-4 < values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() < high + 1e-4
        assert abs(values.mean() - (low + high) / 2) < 0.04 * (high - low)
    correlations = np.corrcoef([brightness, saturation, contrast])
    assert np.abs(correlations - np.eye(3)).max() < 0.13  # four standard errors


@pytest.mark.parametrize(("size", "reach"), [(8, 1), (12, 2), (28, 4)])
def test_translation_is_by_up_to_an_eighth_with_zeros(size, reach):
    image = np.asarray(random_image(size, size, 1))
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)))
    places = itertools.product(range(2 * reach + 1), repeat=2)
    windows = {padded[i : i + size, j : j + size].tobytes() for i, j in places}
    assert {
        output.tobytes() for output in np.asarray(draw("translation", image, 1.0, 1_500))
    } == windows


@pytest.mark.parametrize(("size", "side"), [(7, 4), (8, 4), (28, 14)])
def test_cutout_is_a_square_of_half_the_size(size, side):
    image = random_image(size, size, 3)
    outputs = np.asarray(draw("cutout", image, 1.0, 3_000))
    hidden = (outputs == 0).all(-1)
    np.testing.assert_array_equal(outputs[~hidden], np.broadcast_to(image, outputs.shape)[~hidden])
    rows, columns = hidden.any(2), hidden.any(1)
    np.testing.assert_array_equal(hidden, rows[:, :, None] & columns[:, None])
    lengths = [
        sum(0 <= first + i < size for i in range(side))
        for first in range(-(side // 2), size + 1 - side % 2 - side // 2)
    ]
    for axis in (rows, columns):
        assert (
            np.abs(np.diff(np.pad(axis, ((0, 0), (1, 1))), axis=1)).sum(1) == 2
        ).all()  # one run
        assert set(axis.sum(1)) == set(lengths)
        assert abs(axis.sum(1).mean() / np.mean(lengths) - 1) < 0.02
        assert axis.any(0).all()


def test_noise_is_white_and_its_deviation_half_normal():
    image = random_image(28, 28, 3)
    added = np.asarray(draw("noise", image, 1.0, 1_000) - image)
    deviations = added.std((1, 2, 3))
    assert abs((deviations**2).mean() - 0.01) < 0.002
    assert abs(deviations.mean() - 0.1 * np.sqrt(2 / np.pi)) < 0.008
    assert np.abs(added.mean((1, 2, 3)) / deviations).max() < 5 / np.sqrt(28 * 28 * 3)
    np.testing.assert_allclose(np.corrcoef(added.reshape(-1, 3).T), np.eye(3), atol=0.01)


def test_chromatic_of_rgb_is_the_papers_matrix():
    image = np.asarray(random_image(8, 8, 3), np.float64)
    outputs = np.asarray(draw("chromatic", jnp.float32(image), 1.0, 1_000), np.float64)
    pixels = np.c_[image.reshape(-1, 3), np.ones(64)]
    fits = np.linalg.lstsq(
        pixels, outputs.reshape(1_000, 64, 3).transpose(1, 0, 2).reshape(64, -1)
    )[0]
    fits = fits.reshape(4, 1_000, 3).transpose(1, 2, 0)  # [num, output channel, input channel or 1]
    v, u = np.ones(3) / np.sqrt(3), np.array([1, -1, 0]) / np.sqrt(2)
    numbers = []
    for matrix, offset in zip(fits[..., :3], fits[..., 3]):
        gain = v @ matrix @ v  # of luma: contrast, with its sign
        turned = matrix @ u
        angle = np.arctan2(turned @ np.cross(v, u), turned @ u)
        contrast, sign = abs(gain), np.sign(gain)
        brightness, saturation = v @ offset / np.sqrt(3) / gain, np.linalg.norm(turned) / contrast
        cross = np.cross(np.eye(3), v)
        hue = (
            np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(v, v)
        )
        flip_luma = np.eye(3) - (1 - sign) * np.outer(v, v)
        saturate = np.outer(v, v) + saturation * (np.eye(3) - np.outer(v, v))
        expected = saturate @ hue @ flip_luma * contrast
        np.testing.assert_allclose(matrix, expected, atol=1e-4)
        np.testing.assert_allclose(offset, expected @ np.full(3, brightness), atol=1e-4)
        numbers.append((brightness, np.log2(contrast), sign, angle, np.log2(saturation)))
    numbers = np.array(numbers)
    deviations = [0.2, 0.5, 1, 2 * np.pi / np.sqrt(12), 1]  # of the angle: uniform over the circle
    np.testing.assert_allclose(numbers.std(0), deviations, rtol=0.1)
    assert (np.abs(numbers.mean(0)) < 0.13 * np.array(deviations)).all()
    assert np.abs(np.corrcoef(numbers.T) - np.eye(5)).max() < 0.13


@pytest.mark.parametrize("channels", [1, 2])
def test_chromatic_of_grey_is_brightness_and_contrast(channels):
    image = np.asarray(random_image(8, 8, channels))
    outputs = np.asarray(draw("chromatic", image, 1.0, 1_000))
    slope, intercept = np.polyfit(image.ravel(), outputs.reshape(1_000, -1).T, 1)
    np.testing.assert_allclose(
        outputs, slope[:, None, None, None] * image + intercept[:, None, None, None], atol=1e-4
    )
    np.testing.assert_allclose(
        [np.log2(slope).std(), (intercept / slope).std()], [0.5, 0.2], rtol=0.1
    )
    kept = (np.asarray(draw("chromatic", image, 0.5, 2_000)) == image).all((1, 2, 3)).mean()
    assert abs(kept - 0.25) < 0.04


def test_geometric_blits_are_exact_and_as_frequent_as_they_should():
    """Without scale, stretch, rotations and fractional shift, (1 - p)^4, pixels only move."""
    image = np.asarray(random_image(8, 8, 2))
    outputs = np.asarray(draw("geometric", image, 0.3, 6_000))
    blits = {}
    for mirrored, turns, i, j in itertools.product((0, 1), range(4), range(3), range(3)):
        moved = np.rot90(image[:, ::-1] if mirrored else image, turns)
        moved = np.pad(moved, ((1, 1), (1, 1), (0, 0)), mode="reflect")[i : i + 8, j : j + 8]
        blits[mirrored, turns, i - 1, j - 1] = moved.tobytes()
    found = [output.tobytes() for output in outputs]
    counts = {move: found.count(blit) / len(found) for move, blit in blits.items()}
    assert all(counts[0, turns, 0, 0] and counts[1, turns, 0, 0] for turns in range(4))
    assert all(counts[0, 0, i, j] for i, j in itertools.product((-1, 0, 1), repeat=2))
    untouched = 0.7**4
    still = 1 - 0.3 * 0.75  # at 8 pixels, half the shifts along an axis round to none
    assert abs(sum(counts.values()) - untouched) < 0.022  # four standard errors, as below
    assert abs(counts[0, 0, 0, 0] - untouched * 0.85 * (1 - 0.3 * 0.75) * still) < 0.017
    assert abs(sum(counts[1, k, i, j] for _, k, i, j in counts) / 2 - untouched * 0.15) < 0.01


def test_geometric_maps_have_the_papers_scales_and_shifts():
    """Of an image of coordinates, the centre says where it came from and its neighbours the map."""
    coordinates = jnp.stack(jnp.indices((29, 29)), -1) - 14.0
    outputs = np.asarray(draw("geometric", coordinates, 1.0, 3_000))
    source = outputs[:, 14, 14]
    maps = np.stack([outputs[:, 15, 14] - source, outputs[:, 14, 15] - source], -1)
    maps = maps[np.abs(source).max(1) < 11]  # apart from the mirrored border
    determinants = np.linalg.det(maps)
    assert abs((determinants < 0).mean() - 0.5) < 0.04
    assert abs(np.log2(np.abs(determinants)).std() / 2 - 0.2) < 0.015
    long, short = np.linalg.svd(maps, compute_uv=False).T
    assert abs(np.log2(long / short).mean() / 2 - 0.2 * np.sqrt(2 / np.pi)) < 0.015
    angles = np.arctan2(maps[:, 1, 0], maps[:, 0, 0])
    assert np.abs(np.exp(1j * np.outer(range(1, 5), angles)).mean(1)).max() < 0.08
    growth = np.exp(2 * (0.2 * np.log(2)) ** 2)  # of a square: by the scale, by the stretch
    variance = (29 * 0.125) ** 2 * (1 / 3 + growth**2)
    np.testing.assert_allclose(source.var(0), [variance, variance], rtol=0.12)


def test_resample_is_bilinear_and_mirrored():
    image = np.asarray(random_image(7, 10, 2))
    matrix = np.array([[0.6, -0.5, 3.3], [0.4, 0.7, -5.2], [0, 0, 1]])
    grid = np.indices((7, 10)).reshape(2, -1) - [[3], [4.5]]
    sources = matrix[:2, :2] @ grid + matrix[:2, 2:] + [[3], [4.5]]
    expected = [
        scipy.ndimage.map_coordinates(image[..., c], sources, order=1, mode="mirror").reshape(7, 10)
        for c in range(2)
    ]
    np.testing.assert_allclose(
        _resample(image, jnp.float32(matrix)), np.stack(expected, -1), atol=1e-5
    )


def test_resample_smooths_what_it_shrinks():
    board = (-1.0) ** jnp.indices((16, 16)).sum(0)[..., None]
    aliased = jnp.diag(jnp.array([2.0, 2.0, 1.0]))  # every second pixel alone would be constant
    shifted = aliased.at[:2, 2].set(0.5)
    assert jnp.abs(_resample(board, shifted)).max() < 0.2
    assert jnp.abs(_resample(board, jnp.eye(3)) - board).max() == 0
    np.testing.assert_allclose(_resample(jnp.ones((16, 16, 1)), shifted), 1, rtol=1e-6)


@pytest.mark.slow
def test_augmentations_do_not_leak_below_probability_1():
    """Section 2.2 of Karras et al. 2020, with four orientations of a slope and all of `geometric`.

    The chances T that one orientation is seen as another can be inverted, so that what D sees
    tells the originals' shares; but not at p = 1, where all orientations look alike.
    """
    slope = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 8)[:, None, None], (8, 8, 1))
    slopes = jnp.stack([jnp.rot90(slope, turns) for turns in range(4)])

    @partial(jax.jit, static_argnums=3)
    def seen(key, shares, probability, num):
        """Shares of the orientations that augmented images of these shares have."""
        own_key, key = jax.random.split(key)
        own = slopes[jax.random.choice(own_key, 4, (num,), p=shares)]
        images = d_augment((("geometric", 1.0),), jax.random.split(key, num), own, probability)
        nearest = jnp.einsum("bhwc,khwc->bk", images, slopes).argmax(1)
        return (nearest[:, None] == jnp.arange(4)).mean(0)

    def operator(probability):
        keys = jax.random.split(jax.random.key(7), 4)
        return np.stack([seen(k, s, probability, 15_000) for k, s in zip(keys, np.eye(4))], 1)

    original, other = np.array([0.6, 0.25, 0.1, 0.05]), np.array([0.05, 0.15, 0.2, 0.6])
    for probability in (0.3, 0.6):
        blurred = np.asarray(seen(jax.random.key(8), original, probability, 15_000))
        assert np.abs(blurred - original).max() > 0.1
        chances = operator(probability)
        assert np.linalg.svd(chances, compute_uv=False)[-1] > 0.05
        np.testing.assert_allclose(np.linalg.solve(chances, blurred), original, atol=0.1)
    np.testing.assert_allclose(operator(1.0), np.full((4, 4), 0.25), atol=0.02)
    for shares in (original, other):
        np.testing.assert_allclose(seen(jax.random.key(9), shares, 1.0, 15_000), 0.25, atol=0.02)


def test_adapt_moves_by_the_batch_towards_the_target():
    step = jax.jit(adapt)
    for sign, change in ((0.6, -0.005), (0.2, -0.005), (1.0, 0.005)):
        after = step(0.5, jnp.float32(sign), jnp.float32(0.6), 0.005)
        np.testing.assert_allclose(after, 0.5 + change, rtol=1e-6)
    assert step(0.002, 0.2, 0.6, 0.005) == 0
    assert step(0.998, 0.6, 0.5, 0.005) == 1
    assert step(1.0, 0.6, 0.5, 0.005) == 1
    members = jax.vmap(adapt, (0, None, None, None))(jnp.array([0.2, 0.4]), 0.6, 0.5, 0.005)
    np.testing.assert_allclose(members, [0.205, 0.405], rtol=1e-6)

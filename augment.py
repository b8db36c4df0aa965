"""Augmentations of two kinds, in a dict each.

AUGMENTATIONS, of the real images: `augmentation(key, images, strength) -> images`. They enlarge the
data set, so the generator learns the augmented distribution: flip digits and it draws mirrored
digits. The config gives each its strength (`--config.augment.flip=0.5`), an int where it is
annotated so, else a float; 0 is off.

D_AUGMENTATIONS, of all that the discriminator sees: `transform(key, image, probability) -> image`,
of one image. Real and fake images pass them alike and gradients pass through, so that the generator
does not learn them, as long as some images stay as they are (Karras et al. 2020, section 2.2). To
try one of your own, write one function here, and name it in the dict of its kind; of the second
tests/test_augment.py asks that one key's transform is affine in the image.
"""

from __future__ import annotations

import functools
import zlib

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


def flip(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Mirrors each image left to right with probability `strength`.

    Args:
      key: a PRNG key.
      images: [B, H, W, C].
      strength: 0 to 1; 0.5 makes both sides equally likely.
    Returns:
      [B, H, W, C].
    """
    chosen = jax.random.bernoulli(key, float(strength), (len(images), 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1], images)


def crop(key: jax.Array, images: jax.Array, strength: int) -> jax.Array:
    """Shifts each image by up to `strength` pixels along both axes, its edge pixels repeated.

    Args:
      key: a PRNG key.
      images: [B, H, W, C].
      strength: pixels; the images are padded by so many and cropped back at a random place.
    Returns:
      [B, H, W, C].
    """
    batch, height, width, channels = images.shape
    margin = ((0, 0), (strength, strength), (strength, strength), (0, 0))
    padded = jnp.pad(images, margin, mode="edge")
    corners = jax.random.randint(key, (batch, 2), 0, 2 * strength + 1)

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))

    return jax.vmap(window)(padded, corners)


AUGMENTATIONS = {f.__name__: f for f in (flip, crop)}


def color(key: jax.Array, image: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Changes brightness by up to 0.5, saturation by a factor of 0 to 2, contrast of 0.5 to 1.5.

    Args:
      key: a PRNG key.
      image: [H, W, C] in [-1, 1]; the result is not clipped to it. Grey has no saturation.
      probability: of all three changes together.
    Returns:
      [H, W, C].
    Source: Zhao et al. 2020 (DiffAugment), section 3.
    """
    choice_key, key = jax.random.split(key)
    low, high = jnp.array([-0.5, 0.0, 0.5]), jnp.array([0.5, 2.0, 1.5])
    brightness, saturation, contrast = jax.random.uniform(key, (3,), minval=low, maxval=high)
    changed = image + brightness
    changed = _away_from(changed.mean(-1, keepdims=True), saturation, changed)
    changed = _away_from(changed.mean(), contrast, changed)
    return jnp.where(jax.random.bernoulli(choice_key, probability), changed, image)


def translation(key: jax.Array, image: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Shifts by up to an eighth of the image along both axes, zeros coming in.

    Args:
      key: a PRNG key.
      image: [H, W, C].
      probability: 0 to 1.
    Returns:
      [H, W, C].
    Source: Zhao et al. 2020 (DiffAugment), section 3.
    """
    choice_key, shift_key = jax.random.split(key)
    reach = [(size + 4) // 8 for size in image.shape[:2]]  # rounded
    corner = jax.random.randint(shift_key, (2,), 0, 2 * jnp.array(reach) + 1)
    padded = jnp.pad(image, [(margin, margin) for margin in (*reach, 0)])
    shifted = jax.lax.dynamic_slice(padded, (*corner, 0), image.shape)
    return jnp.where(jax.random.bernoulli(choice_key, probability), shifted, image)


def geometric(key: jax.Array, image: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Mirrors, turns, shifts, scales and stretches: eight affine maps, resampled once.

    Each takes place by itself: x-flip, quarter turns, whole-pixel shift; scale, rotation, stretch,
    rotation, shift. Where only the first three do, pixels keep their values exactly.

    Args:
      key: a PRNG key.
      image: [H, W, C]; beyond its border it is mirrored.
      probability: of each map; of either rotation, so that the first has 1 - sqrt(1 - p).
    Returns:
      [H, W, C].
    Source: Karras et al. 2020 (ADA), appendix B. Deviation: bilinear, smoothed where it shrinks,
    instead of the sym6 wavelet's low-pass filters; and mirrored as often as it takes, not once.
    """
    size = jnp.array(image.shape[:2], jnp.float32)
    choice_key, uniform_key, normal_key = jax.random.split(key, 3)  # few draws compile faster
    uniforms, normals = jax.random.uniform(uniform_key, (6,)), jax.random.normal(normal_key, (4,))
    side, turn, before, after = uniforms[:4]
    scale, stretch = 2 ** (0.2 * normals[:2])
    maps = (  # of (row, column, 1), from output to input: their inverses are as likely
        _scaling(1.0, jnp.where(side < 0.5, -1.0, 1.0)),
        jnp.round(_rotation(jnp.floor(4 * turn) / 4)),
        _shift(jnp.round((uniforms[4:] - 0.5) / 4 * size)),
        _scaling(scale, scale),
        _rotation(before),
        _scaling(1 / stretch, stretch),
        _rotation(after),
        _shift(0.125 * normals[2:] * size),
    )
    rotates = jnp.array([False, False, False, False, True, False, True, False])
    chances = jnp.where(rotates, 1 - jnp.sqrt(1 - probability), probability)
    chosen = jax.random.bernoulli(choice_key, chances)
    matrices = jnp.where(chosen[:, None, None], jnp.stack(maps), jnp.eye(3))
    matrix = functools.reduce(functools.partial(jnp.matmul, precision="highest"), matrices)
    return jnp.where(chosen.any(), _resample(image, matrix), image)


def chromatic(key: jax.Array, image: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Changes brightness, contrast, the sign of luma, hue and saturation, each by itself.

    Args:
      key: a PRNG key.
      image: [H, W, C] in [-1, 1]; the result is not clipped to it. Other than three channels have
        brightness and contrast only; the published code changes the sign of grey, too.
      probability: of each of the five.
    Returns:
      [H, W, C].
    Source: Karras et al. 2020 (ADA), appendix B.
    """
    choice_key, uniform_key, normal_key = jax.random.split(key, 3)
    colorful = image.shape[-1] == 3
    apply = jnp.array([True, True, colorful, colorful, colorful])
    chosen = apply & jax.random.bernoulli(choice_key, probability, (5,))
    side, turn = jax.random.uniform(uniform_key, (2,))
    normals = jax.random.normal(normal_key, (3,))
    brightness = jnp.where(chosen[0], 0.2 * normals[0], 0.0)
    contrast = jnp.where(chosen[1], 2 ** (0.5 * normals[1]), 1.0)
    sign = jnp.where(chosen[2] & (side < 0.5), -1.0, 1.0)
    hue = jnp.where(chosen[3], 2 * jnp.pi * turn, 0.0)
    saturation = jnp.where(chosen[4], 2 ** normals[2], 1.0)
    changed = contrast * (image + brightness)
    if colorful:
        luma = changed.mean(-1, keepdims=True)
        chroma = changed - luma
        # The cross product with the luma axis, (1, 1, 1) / sqrt(3): a quarter turn of the hue.
        turned = (jnp.roll(chroma, 1, -1) - jnp.roll(chroma, -1, -1)) / jnp.sqrt(3.0)
        changed = sign * luma + saturation * (jnp.cos(hue) * chroma + jnp.sin(hue) * turned)
    return jnp.where(chosen.any(), changed, image)


def noise(key: jax.Array, image: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Adds white noise, its standard deviation |N(0, 0.1)|.

    Args:
      key: a PRNG key.
      image: [H, W, C] in [-1, 1]; the result is not clipped to it.
      probability: 0 to 1.
    Returns:
      [H, W, C].
    Source: Karras et al. 2020 (ADA), appendix B.
    """
    choice_key, sigma_key, noise_key = jax.random.split(key, 3)
    sigma = 0.1 * jnp.abs(jax.random.normal(sigma_key))
    noisy = image + sigma * jax.random.normal(noise_key, image.shape)
    return jnp.where(jax.random.bernoulli(choice_key, probability), noisy, image)


def cutout(key: jax.Array, image: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Sets a rectangle of half the image's sides to 0, its centre anywhere in the image.

    Args:
      key: a PRNG key.
      image: [H, W, C].
      probability: 0 to 1.
    Returns:
      [H, W, C].
    Source: Zhao et al. 2020 (DiffAugment), section 3; also in Karras et al. 2020 (ADA), appendix B.
    """
    choice_key, centre_key = jax.random.split(key)
    shape = jnp.array(image.shape[:2])
    side = (shape + 1) // 2
    first = jax.random.randint(centre_key, (2,), 0, shape + 1 - side % 2) - side // 2
    rows, columns = (
        (start <= jnp.arange(size)) & (jnp.arange(size) < start + length)
        for start, length, size in zip(first, side, image.shape)
    )
    inside = (rows[:, None] & columns)[..., None]
    chosen = jax.random.bernoulli(choice_key, probability)
    return jnp.where(inside & chosen, 0.0, image)


D_AUGMENTATIONS = {f.__name__: f for f in (color, translation, geometric, chromatic, noise, cutout)}


def d_augment(
    transforms: tuple[tuple[str, float], ...],
    keys: jax.Array,
    images: jax.Array,
    probability: jax.Array | float,
) -> jax.Array:
    """What the discriminator sees of images, real or fake: each transformed by its own key.

    Equal keys give equal transforms, whatever the images and whichever other transforms there are.

    Args:
      transforms: names in D_AUGMENTATIONS, which has their order, each with a multiplier of the
        probability; R3GAN's are geometric 1, chromatic 0.5, cutout 1.
      keys: [B] PRNG keys.
      images: [B, H, W, C] in [-1, 1].
      probability: 0 to 1; 0 leaves every bit.
    Returns:
      [B, H, W, C], not clipped.
    """
    multipliers = sorted(transforms, key=lambda pair: list(D_AUGMENTATIONS).index(pair[0]))

    def transform(key: jax.Array, image: jax.Array) -> jax.Array:
        for name, multiplier in multipliers:
            own_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
            own_probability = jnp.minimum(multiplier * probability, 1)
            image = D_AUGMENTATIONS[name](own_key, image, own_probability)
        return image

    return jax.vmap(transform)(keys, images)


def adapt(
    probability: jax.Array,
    sign: jax.Array,
    target: jax.Array | float,
    change: jax.Array | float,
) -> jax.Array:
    """The next probability of `d_augment`: up if D overfits, down if not.

    D overfits if the mean sign of its logits at real images, r_t, is above the target.

    Args:
      probability: 0 to 1.
      sign: the mean, -1 to 1, of an update's (augmented) training images.
      target: of it; the paper has 0.6.
      change: by how much; the paper has the batch size over 500,000 images.
    Returns:
      A scalar of 0 to 1.
    Source: Karras et al. 2020 (ADA), section 3.1. Deviation: it moves by one batch every update,
    where the paper moves it by four batches every fourth.
    """
    return jnp.clip(probability + jnp.where(sign > target, change, -change), 0, 1)


def _away_from(centre: jax.Array, factor: jax.Array, image: jax.Array) -> jax.Array:
    return centre + factor * (image - centre)


def _scaling(rows: jax.Array | float, columns: jax.Array | float) -> jax.Array:
    return jnp.array([[rows, 0.0, 0.0], [0.0, columns, 0.0], [0.0, 0.0, 1.0]])


def _rotation(turns: jax.Array) -> jax.Array:
    cos, sin = jnp.cos(2 * jnp.pi * turns), jnp.sin(2 * jnp.pi * turns)
    return jnp.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _shift(offset: jax.Array) -> jax.Array:
    return jnp.array([[1.0, 0.0, offset[0]], [0.0, 1.0, offset[1]], [0.0, 0.0, 1.0]])


def _resample(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """The image [H, W, C] whose value at p is the given one's at matrix @ p, p from the centre.

    Bilinear; where it shrinks, the mean of four samples, as far apart as makes their kernel's
    variance that of a triangle as wide as the output's pixels.
    """
    shape = jnp.array(image.shape[:2])
    centre = (shape - 1) / 2
    grid = jnp.stack(jnp.indices(image.shape[:2]), -1) - centre  # [H, W, 2]
    shrinkage = jnp.square(matrix[:2, :2]).sum(0)  # input pixels in an output pixel, squared
    spread = jnp.sqrt(jnp.maximum(1 - 1 / shrinkage, 0) / 6)  # in output pixels; 0 if it grows
    corners = jnp.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * spread
    points = grid + corners[:, None, None]  # [4, H, W, 2]
    sources = jnp.einsum("ij,...j->...i", matrix[:2, :2], points, precision="highest")
    sources += matrix[:2, 2] + centre

    def sample(channel: jax.Array) -> jax.Array:
        coordinates = sources[..., 0], sources[..., 1]
        return map_coordinates(channel, coordinates, order=1, mode="mirror").mean(0)

    return jax.vmap(sample, -1, -1)(image)

"""Augmentations: what they do, and that nothing else happens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from augment import AUGMENTATIONS, crop, flip

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

"""Augmentations of the real images: `augmentation(key, images, strength) -> images`.

They enlarge the data set, so the generator learns the augmented distribution: flip digits and it
draws mirrored digits. The config gives each its strength (`--config.augment.flip=0.5`); 0 is off.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


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

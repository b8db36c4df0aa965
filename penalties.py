"""Penalties on the discriminator: `penalty(discriminate, real, fake) -> one value an example`.

`discriminate` maps images [B, ...] to logits [B]. The config gives each a weight
(`--config.penalties.r1=0.1`); a penalty of weight 0 is absent from the compiled step.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def r1(
    discriminate: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array
) -> jax.Array:
    """Half the squared norm of D's gradient at real images: its weight is the paper's gamma.

    Args:
      discriminate: images to logits; each logit depends on its own image alone.
      real: [B, ...].
      fake: not looked at.
    Returns:
      [B].
    Source: Mescheder et al. 2018, equation 9.
    """
    gradient = jax.grad(lambda images: discriminate(images).sum())(real)
    return 0.5 * jnp.sum(jnp.square(gradient).reshape(len(real), -1), axis=1)


PENALTIES = {f.__name__: f for f in (r1,)}

"""Penalties on the discriminator: `penalty(seen) -> one value a logit`.

`seen` is what D has looked at, and D itself (`Seen`). The config gives each a weight
(`--config.penalties.r1=0.1`); a penalty of weight 0 is absent from the compiled step. To try one of
your own, write one function here, and name it in PENALTIES; one of D's gradient in GRADIENT_NORMS,
too, so that checks.py refuses batch normalisation and what contradicts it. One that remembers, as
`lecam` does, begins in `_init_state` and goes on in `_carry` of gan.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from augment import translation

MEMORY = 0.99  # of LeCam's averages: what one update keeps of them


class Seen(NamedTuple):
    """One micro-batch of the discriminator.

    Attributes:
      real, fake: float32 [B, ...]; packed ones are examples of more channels.
      real_logits, fake_logits: [B].
      real_squares, fake_squares: [B], the squared norms of D's gradients there; `r1` and `r2` alone
        have them.
      look_at_real, look_at_fake: D as a function of examples [B, ...] to logits [B]: with the
        augmentations, in the same random draws, and the labels of the logits above.
      keys: PRNG keys [B], for what a penalty draws.
      averages: of the logits so far, `real` and `fake`, scalars; `lecam` alone has them.
    """

    real: jax.Array
    fake: jax.Array
    real_logits: jax.Array
    fake_logits: jax.Array
    real_squares: Any
    fake_squares: Any
    look_at_real: Callable[[jax.Array], jax.Array]
    look_at_fake: Callable[[jax.Array], jax.Array]
    keys: jax.Array
    averages: dict[str, Any]


def r1(seen: Seen) -> jax.Array:
    """Half the squared norm of D's gradient at real examples: its weight is the paper's gamma.

    Source: Mescheder et al. 2018, equation 9.
    """
    return 0.5 * seen.real_squares


def r2(seen: Seen) -> jax.Array:
    """Half the squared norm of D's gradient at fake examples.

    Source: Mescheder et al. 2018, equation 10.
    """
    return 0.5 * seen.fake_squares


def gp(seen: Seen) -> jax.Array:
    """How far the norm of D's gradient is from 1, squared, between real and fake examples.

    Source: Gulrajani et al. 2017, equation 3 (WGAN-GP; its weight is 10).
    """
    return jnp.square(_norm(squared_gradient(seen.look_at_real, between(seen))) - 1)


def zero_centred_gp(seen: Seen) -> jax.Array:
    """The squared norm of D's gradient between real and fake examples.

    Source: Thanh-Tung et al. 2019, equation 9.
    """
    return squared_gradient(seen.look_at_real, between(seen))


def dragan(seen: Seen) -> jax.Array:
    """How far the norm of D's gradient is from 1, squared, around real examples.

    The noise is uniform in [0, half a standard deviation of the batch], as in the authors' code,
    where the paper's text has a Gaussian. Deviation: that code multiplies each example's noise by
    a uniform share of its own (kodalinaveen3/DRAGAN, DRAGAN.ipynb).
    Source: Kodali et al. 2017, section 2.5 (its weight is 10).
    """

    def disturb(key: jax.Array, example: jax.Array) -> jax.Array:
        return example + 0.5 * seen.real.std() * jax.random.uniform(key, example.shape)

    around = jax.vmap(disturb)(seen.keys, seen.real)
    return jnp.square(_norm(squared_gradient(seen.look_at_real, around)) - 1)


def bcr(seen: Seen) -> jax.Array:
    """How D's logits change, squared, where an image is shifted: of real and fake images alike.

    Deviation: shifts up to an eighth of the image, without the paper's mirroring, which a digit
    does not survive.
    Source: Zhao et al. 2021, 'Improved Consistency Regularization for GANs', algorithm 1 (bCR).
    """

    def shift(images: jax.Array) -> jax.Array:
        return jax.vmap(translation, in_axes=(0, 0, None))(seen.keys, images, 1.0)

    real = seen.look_at_real(shift(seen.real)) - seen.real_logits
    fake = seen.look_at_fake(shift(seen.fake)) - seen.fake_logits
    return jnp.square(real) + jnp.square(fake)


def lecam(seen: Seen) -> jax.Array:
    """How far logits are from what D has said of the other kind so far, squared.

    Source: Tseng et al. 2021, equation 3.
    """
    real, fake = seen.averages["real"], seen.averages["fake"]
    return jnp.square(seen.real_logits - fake) + jnp.square(seen.fake_logits - real)


def lecam_averages(averages: dict[str, Any], real: jax.Array, fake: jax.Array) -> dict[str, Any]:
    """LeCam's averages after an update with logits of these means, scalars; they start at 0.

    Source: Tseng et al. 2021.
    """
    means = {"real": real, "fake": fake}
    return {kind: MEMORY * averages[kind] + (1 - MEMORY) * means[kind] for kind in means}


def squared_gradient(look: Callable[[jax.Array], jax.Array], examples: jax.Array) -> jax.Array:
    """The squared norm of D's gradient at each example: [B, ...] to [B].

    The logits are summed first, so each may depend on its own example alone.
    """
    return squared(jax.grad(lambda examples: look(examples).sum())(examples))


def squared(gradients: jax.Array) -> jax.Array:
    """The squared norm of each gradient: [B, ...] to [B]."""
    return jnp.sum(jnp.square(gradients).reshape(len(gradients), -1), axis=1)


def between(seen: Seen) -> jax.Array:
    """A random point on the line from each real example to the fake one beside it: [B, ...]."""

    def mix(key: jax.Array, real: jax.Array, fake: jax.Array) -> jax.Array:
        return fake + jax.random.uniform(key) * (real - fake)

    return jax.vmap(mix)(seen.keys, seen.real, seen.fake)


def _norm(square: jax.Array) -> jax.Array:
    """Its root, with a derivative of 0, not infinity, where it is 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


PENALTIES = {f.__name__: f for f in (r1, r2, gp, zero_centred_gp, dragan, bcr, lecam)}
# What is of one logit's gradient, and to which norm it draws that gradient.
GRADIENT_NORMS = {"r1": 0, "r2": 0, "gp": 1, "zero_centred_gp": 0, "dragan": 1}

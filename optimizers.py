"""Optimisers: `optimizer(numbers) -> an Optax transformation`; clipping and schedules.

The arguments of each are fields of the config (`--config.optimizer.generator.b1=0.5`), and numbers
that a sweep may vary. To try one of your own, write one function here and name it in OPTIMIZERS;
an argument of a new name needs a line in configs/default.py, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def sgd(learning_rate: float) -> optax.GradientTransformation:
    """Stochastic gradient descent."""
    return optax.sgd(learning_rate)


def optimistic_sgd(learning_rate: float) -> optax.GradientTransformation:
    """Twice the gradient less the one before: it foresees the other player's answer.

    Source: Daskalakis et al. 2018 (optimistic mirror descent).
    """
    return optax.optimistic_gradient_descent(learning_rate)


def momentum(learning_rate: float, momentum: float) -> optax.GradientTransformation:
    """Gradient descent with a heavy ball: the steps so far, `momentum` as heavy each time.

    Source: Polyak 1964; a negative one, for games: Gidel et al. 2019, "Negative momentum for
    improved game dynamics".
    """
    return optax.sgd(learning_rate, momentum)


def rmsprop(learning_rate: float, decay: float) -> optax.GradientTransformation:
    """The gradient over the root of its mean square, which forgets at `decay`.

    Optax adds its 1e-8 under the root, so that gradients far below 1e-4 are not enlarged to 1;
    PyTorch, which the WGAN's authors used, adds it to the root.

    Source: Tieleman and Hinton 2012; the optimiser of Arjovsky et al. 2017.
    """
    return optax.rmsprop(learning_rate, decay)


def adam(learning_rate: float, b1: float, b2: float) -> optax.GradientTransformation:
    """The gradient's mean over the root of its square's, each forgetting at its own rate.

    Source: Kingma and Ba 2015, algorithm 1.
    """
    return optax.adam(learning_rate, b1, b2)


def optimistic_adam(learning_rate: float, b1: float, b2: float) -> optax.GradientTransformation:
    """Twice Adam's step minus the step before: it foresees the other player's answer.

    Source: Daskalakis et al. 2018, algorithm 1.
    """
    return optax.optimistic_adam_v2(learning_rate, b1=b1, b2=b2, nesterov=False)


def optimizer_fields(name: str) -> set[str]:
    """The arguments of an optimiser."""
    return set(inspect.signature(OPTIMIZERS[name]).parameters)


def clip_gradient(gradient: Any, limit: jax.Array) -> tuple[Any, jax.Array]:
    """A gradient whose norm is at most `limit` (0: any), and the norm that it had.

    Source: Pascanu et al. 2013, algorithm 1.
    """
    norm = optax.tree.norm(gradient)
    scale = jnp.where(limit > 0, jnp.minimum(1.0, limit / norm), 1.0)
    return jax.tree.map(lambda leaf: scale * leaf, gradient), norm


def scheduled(first: Any, last: Any, progress: jax.Array) -> Any:
    """Numbers on their way from the first to the last, along half a cosine; then constant.

    Args:
      first, last: pytrees of scalars.
      progress: 0 at the first, 1 and more at the last.
    Source: Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    share = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
    return jax.tree.map(lambda a, b: b + share * (a - b), first, last)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    f.__name__: f for f in (sgd, optimistic_sgd, momentum, rmsprop, adam, optimistic_adam)
}

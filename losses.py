"""Adversarial losses: `loss(real_logits, fake_logits) -> (d_loss, g_loss)`, one value an example.

Both players descend. D(x) = sigmoid(logit), so log D(x) = -softplus(-logit) and
log(1 - D(x)) = -softplus(logit), which never overflow. To try a loss of your own, write one
function here, name it in LOSSES, and train with `--config.loss=yours`.
"""

from __future__ import annotations

import jax
from jax.nn import softplus


def minimax(real_logits: jax.Array, fake_logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The zero-sum game: D ascends log D(x) + log(1 - D(G(z))), G descends its second term.

    At the optimum D = 1/2 everywhere and the value of the game is -log 4. G's gradient vanishes
    where D is sure ('saturates').

    Args:
      real_logits, fake_logits: [B].
    Returns:
      d_loss, the negative of what D ascends, and g_loss, each [B].
    Source: Goodfellow et al. 2014, equation 1.
    """
    return softplus(-real_logits) + softplus(fake_logits), -softplus(fake_logits)


def non_saturating(real_logits: jax.Array, fake_logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """D as in `minimax`; G descends -log D(G(z)), whose gradient is largest where D is sure.

    Args:
      real_logits, fake_logits: [B].
    Returns:
      d_loss and g_loss, each [B].
    Source: Goodfellow et al. 2014, section 3.
    """
    return softplus(-real_logits) + softplus(fake_logits), softplus(-fake_logits)


LOSSES = {f.__name__: f for f in (minimax, non_saturating)}

"""Adversarial losses: `loss(real_logits, fake_logits) -> (d_loss, g_loss)`, one value an example.

Both players descend. D(x) = sigmoid(logit), so log D(x) = -softplus(-logit) and
log(1 - D(x)) = -softplus(logit), which never overflow. To try a loss of your own, write one
function here, name it in LOSSES, and train with `--config.loss=yours`. One that does not change
where a constant is added to all logits is named in SHIFTED, too, and in RELATIVISTIC where it is of
differences of real and fake ones: checks.py refuses what needs the logits themselves.
"""

from __future__ import annotations

import jax
from jax.nn import relu, softplus


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


def least_squares(real_logits: jax.Array, fake_logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """D's output is drawn to 1 at real and to 0 at fake images; G draws it to 1 at its own.

    The logit is the output itself, without a sigmoid; so 1/2 divides real from fake, not 0, and
    `d_accuracy`, which divides at 0, says less here.

    Args:
      real_logits, fake_logits: [B].
    Returns:
      d_loss and g_loss, each [B].
    Source: Mao et al. 2017, equation 9 (a = 0, b = c = 1).
    """
    d_loss = 0.5 * (real_logits - 1) ** 2 + 0.5 * fake_logits**2
    return d_loss, 0.5 * (fake_logits - 1) ** 2


def hinge(real_logits: jax.Array, fake_logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """D pushes logits beyond 1 at real and beyond -1 at fake images, and no further; G raises them.

    Args:
      real_logits, fake_logits: [B].
    Returns:
      d_loss and g_loss, each [B].
    Source: Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17.
    """
    return relu(1 - real_logits) + relu(1 + fake_logits), -fake_logits


def wasserstein(real_logits: jax.Array, fake_logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The difference of the means of D: the Wasserstein distance, where D is 1-Lipschitz.

    Nothing bounds D here: it needs a penalty or another constraint. The logit has no zero of its
    own, so `d_accuracy` says little.

    Args:
      real_logits, fake_logits: [B].
    Returns:
      d_loss and g_loss, each [B].
    Source: Arjovsky et al. 2017, equations 2 and 3.
    """
    return fake_logits - real_logits, -fake_logits


def relativistic_average(
    real_logits: jax.Array, fake_logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`non_saturating`, of each logit relative to the mean of the other kind; G plays both terms.

    The means are of the batch, or of the micro-batch with `accumulate`. A logit's sign says nothing
    of real or fake by itself.

    Args:
      real_logits, fake_logits: [B].
    Returns:
      d_loss and g_loss, each [B].
    Source: Jolicoeur-Martineau 2019 (RaSGAN).
    """
    real, fake = real_logits - fake_logits.mean(), fake_logits - real_logits.mean()
    return softplus(-real) + softplus(fake), softplus(real) + softplus(-fake)


def relativistic_paired(
    real_logits: jax.Array, fake_logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """D tells which of a pair is real, by the difference of their logits; G turns it around.

    Real and fake images are paired as they come in the batch. A logit's sign says nothing of real
    or fake by itself.

    Args:
      real_logits, fake_logits: [B].
    Returns:
      d_loss and g_loss, each [B].
    Source: Jolicoeur-Martineau 2019 (RSGAN; later RpGAN); Huang et al. 2024, equation 2.
    """
    return softplus(fake_logits - real_logits), softplus(real_logits - fake_logits)


LOSSES = {
    f.__name__: f
    for f in (
        minimax,
        non_saturating,
        least_squares,
        hinge,
        wasserstein,
        relativistic_average,
        relativistic_paired,
    )
}
RELATIVISTIC = ("relativistic_average", "relativistic_paired")
SHIFTED = ("wasserstein", *RELATIVISTIC)

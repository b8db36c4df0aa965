"""Losses against closed forms and numbers worked by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from losses import LOSSES, minimax, non_saturating

REAL = jnp.array([0.0, 2.0, -1.0])
FAKE = jnp.array([0.0, -3.0, 0.5])


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_minimax_is_the_game_of_goodfellow_2014():
    d_loss, g_loss = minimax(REAL, FAKE)
    np.testing.assert_allclose(
        d_loss, -np.log(sigmoid(REAL)) - np.log(1 - sigmoid(FAKE)), rtol=1e-6
    )
    np.testing.assert_allclose(g_loss, np.log(1 - sigmoid(FAKE)), rtol=1e-6)


def test_minimax_is_worth_minus_log_4_at_the_optimum():
    d_loss, g_loss = minimax(jnp.zeros(1), jnp.zeros(1))
    assert float(-d_loss[0]) == pytest.approx(-math.log(4), rel=1e-6)
    assert float(g_loss[0]) == pytest.approx(-math.log(2), rel=1e-6)


def test_minimax_generator_saturates_where_non_saturating_does_not():
    def slope(loss, logit):
        return float(jax.grad(lambda fake: loss(jnp.zeros(()), fake)[1])(logit))

    assert slope(minimax, -8.0) == pytest.approx(-sigmoid(-8.0), rel=1e-5)  # -3e-4
    assert slope(non_saturating, -8.0) == pytest.approx(-sigmoid(8.0), rel=1e-5)  # -0.9997


def test_non_saturating_by_hand():
    d_loss, g_loss = non_saturating(REAL, FAKE)
    # -log sigmoid(2) = 0.126928, -log(1 - sigmoid(-3)) = 0.048587, -log sigmoid(0.5) = 0.474077
    np.testing.assert_allclose(d_loss, [1.386294, 0.175515, 1.313262 + 0.974077], rtol=1e-5)
    np.testing.assert_allclose(g_loss, [0.693147, 3.048587, 0.474077], rtol=1e-5)


# At real logits 0 and 2, fake logits 0 and -3. d_loss and g_loss of each example, then the gradients
# of the sum of d_loss for real and fake logits, and of the sum of g_loss for the fake ones. With
# s(x) = 1 / (1 + exp(-x)): s(1) = 0.731059, s(2) = 0.880797, s(4) = 0.982014, s(5) = 0.993307, and
# softplus(-x) = -log s(x).
BY_HAND = {
    "least_squares": ([0.5, 5.0], [0.5, 8.0], [-1, 1], [0, -3], [-1, -4]),
    "hinge": ([2.0, 0.0], [0.0, 3.0], [-1, 0], [1, 0], [-1, -1]),
    "wasserstein": ([0.0, -5.0], [0.0, 3.0], [-1, -1], [1, 1], [-1, -1]),
    # d = r - f is 0 and 5. d_loss = -log s(d), g_loss = -log s(-d) = d - log s(d)
    "relativistic_paired": (
        [0.693147, 0.006715], [0.693147, 5.006715], [-0.5, -0.006693], [0.5, 0.006693],
        [-0.5, -0.993307],
    ),
    # Means are 1 and -1.5: real - mean fake is 1.5 and 3.5, fake - mean real is -1 and -4.
    # s(1.5) = 0.817574, s(3.5) = 0.970688. d_loss = -log s(1.5) - log s(1), -log s(3.5) - log s(4);
    # g_loss adds 1.5 + 1 and 3.5 + 4. Of the sum over both examples a real logit has -s(-own) and
    # minus the mean of s(-1), s(-4), a fake one s(its own) and the mean of s(-1.5), s(-3.5).
    "relativistic_average": (
        [0.201413 + 0.313262, 0.029750 + 0.018150], [3.014675, 7.547900],
        [-0.182426 - 0.143463, -0.029312 - 0.143463], [0.268941 + 0.105869, 0.017986 + 0.105869],
        [-0.731059 - 0.894131, -0.982014 - 0.894131],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_losses_and_both_gradients_by_hand(name):
    loss, (d_loss, g_loss, d_of_real, d_of_fake, g_of_fake) = LOSSES[name], BY_HAND[name]
    real, fake = jnp.array([0.0, 2.0]), jnp.array([0.0, -3.0])
    for ours, expected in zip(loss(real, fake), (d_loss, g_loss)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4)
    d_gradients = jax.grad(lambda *logits: loss(*logits)[0].sum(), argnums=(0, 1))(real, fake)
    g_gradient = jax.grad(lambda fake: loss(real, fake)[1].sum())(fake)
    for ours, expected in zip((*d_gradients, g_gradient), (d_of_real, d_of_fake, g_of_fake)):
        np.testing.assert_allclose(ours, expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["wasserstein", "relativistic_average", "relativistic_paired"])
def test_losses_of_differences_do_not_see_a_common_shift(name):
    shifted = LOSSES[name](REAL + 7, FAKE + 7)
    d_loss, g_loss = LOSSES[name](REAL, FAKE)
    np.testing.assert_allclose(shifted[0], d_loss, rtol=1e-5)
    # Only the relativistic G sees real images, which take the shift out again.
    np.testing.assert_allclose(shifted[1] + 7 * (name == "wasserstein"), g_loss, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    loss = LOSSES[name]
    d_loss, g_loss = loss(REAL, FAKE)
    assert d_loss.shape == g_loss.shape == REAL.shape
    check_grads(loss, (REAL, FAKE), order=1, modes=["rev"], rtol=1e-2)
    # The compiled loss is the eager one; vmapped over batches, a loop over them.
    for ours, compiled in zip((d_loss, g_loss), jax.jit(loss)(REAL, FAKE)):
        np.testing.assert_allclose(ours, compiled, rtol=1e-6)
    stacked = jax.vmap(loss)(jnp.stack([REAL, FAKE]), jnp.stack([FAKE, REAL]))
    for i, looped in enumerate((loss(REAL, FAKE), loss(FAKE, REAL))):
        np.testing.assert_allclose([s[i] for s in stacked], looped, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_finite_far_out(name):
    real, fake = jnp.array([1e4, -1e4, 0.0]), jnp.array([-1e4, 1e4, 1e4])
    for player in (0, 1):

        def total(real, fake, player=player):
            return LOSSES[name](real, fake)[player].sum()

        value, grads = jax.value_and_grad(total, argnums=(0, 1))(real, fake)
        assert np.isfinite(value)
        assert all(np.isfinite(grad).all() for grad in grads)

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

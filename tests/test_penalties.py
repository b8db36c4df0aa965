"""Penalties against analytic gradients and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import MLPDiscriminator
from penalties import PENALTIES, r1


@pytest.fixture
def discriminator():
    module = MLPDiscriminator(width=8)
    real, fake = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 1))
    variables = module.init(jax.random.key(1), real, train=True)
    return lambda images: module.apply(variables, images, train=True), real, fake


def test_r1_of_a_linear_discriminator_is_half_its_squared_weights():
    weights = jnp.arange(16.0).reshape(4, 4, 1)
    images = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    values = r1(lambda x: (x * weights).sum((1, 2, 3)) + 3, images, images)
    np.testing.assert_allclose(values, np.full(5, 0.5 * (np.arange(16.0) ** 2).sum()), rtol=1e-6)


def test_r1_against_finite_differences():
    first, second = jax.random.normal(jax.random.key(0), (2, 16, 8))
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))

    def discriminate(images):  # smooth, as finite differences need it
        return jnp.tanh(images.reshape(-1, 16) @ first / 4) @ second[0]

    step, squares = 1e-2, np.zeros(3)
    for pixel in range(16):
        bump = jnp.zeros(16).at[pixel].set(step).reshape(4, 4, 1)
        slope = (discriminate(images + bump) - discriminate(images - bump)) / (2 * step)
        squares += np.asarray(slope, np.float64) ** 2
    np.testing.assert_allclose(r1(discriminate, images, images), squares / 2, rtol=1e-3)


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty(name, discriminator):
    discriminate, real, fake = discriminator
    penalty = PENALTIES[name]
    values = penalty(discriminate, real, fake)
    assert values.shape == (3,)
    assert np.isfinite(values).all()
    compiled = jax.jit(lambda real, fake: penalty(discriminate, real, fake))
    np.testing.assert_allclose(values, compiled(real, fake), rtol=1e-5)
    gradient = jax.grad(lambda scale: penalty(lambda x: scale * discriminate(x), real, fake).sum())
    assert np.isfinite(gradient(2.0))
    assert gradient(2.0) != 0

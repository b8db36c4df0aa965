"""Networks: the seed article's to the number, shapes, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import DISCRIMINATORS, GENERATORS, MLPDiscriminator, MLPGenerator, doublings


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_the_articles_networks():
    latents = jax.random.normal(jax.random.key(0), (2, 100))
    generator = MLPGenerator((28, 28, 1))
    variables = generator.init(jax.random.key(1), latents, train=True)
    assert count(variables) == (100 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 784
    images = generator.apply(variables, latents, train=True)
    assert images.shape == (2, 28, 28, 1)

    # The same arithmetic in NumPy.
    params, hidden = variables["params"], np.asarray(latents)
    for i in range(3):
        dense = params[f"Dense_{i}"]
        hidden = hidden @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        hidden = hidden if i == 2 else np.where(hidden > 0, hidden, 0.2 * hidden)
    np.testing.assert_allclose(images.reshape(2, 784), hidden, rtol=1e-4, atol=1e-5)

    discriminator = MLPDiscriminator()
    variables = discriminator.init(jax.random.key(2), images, train=True)
    assert count(variables) == (784 + 1) * 128 + (128 + 1) * 128 + (128 + 1)
    assert discriminator.apply(variables, images, train=True).shape == (2,)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (64, 64, 3)])
def test_every_pair_fits(name, shape):
    generator, discriminator = GENERATORS[name](shape, width=8), DISCRIMINATORS[name](width=8)
    latents = jnp.ones((2, 16))
    images, _ = jax.eval_shape(
        lambda: generator.init_with_output(jax.random.key(0), latents, train=True)
    )
    assert images.shape == (2, *shape)
    assert images.dtype == jnp.float32
    logits, _ = jax.eval_shape(
        lambda: discriminator.init_with_output(jax.random.key(0), jnp.ones((2, *shape)), train=True)
    )
    assert logits.shape == (2,)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize(("size", "times"), [(8, 1), (28, 2), (32, 3), (64, 4), (12, 1), (56, 3)])
def test_doublings(size, times):
    assert doublings(size) == times
    assert 4 <= size / 2**times <= 7


@pytest.mark.parametrize("size", [1, 7, 18, 27, 33])
def test_doublings_refuses_what_cannot_be_made(size):
    with pytest.raises(ValueError, match=f"{size}x{size}"):
        doublings(size)

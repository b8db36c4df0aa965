"""Penalties against analytic gradients, finite differences and numbers worked by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gan as gans
from data import Spec
from penalties import (
    GRADIENT_NORMS,
    PENALTIES,
    Seen,
    bcr,
    between,
    dragan,
    lecam,
    lecam_averages,
    squared_gradient,
)

WEIGHTS = jnp.arange(16.0).reshape(4, 4, 1) / 10  # of norm sqrt(12.4)
SQUARE = float((WEIGHTS**2).sum())


def make_seen(look, fake_look=None, num=5, **changes):
    real, fake = jax.random.normal(jax.random.key(0), (2, num, 4, 4, 1))
    fake_look = fake_look or look
    keys = jax.random.split(jax.random.key(1), num)
    averages = {"real": jnp.float32(0.5), "fake": jnp.float32(-0.25)}
    squares = squared_gradient(look, real), squared_gradient(fake_look, fake)
    logits = look(real), fake_look(fake)
    seen = Seen(real, fake, *logits, *squares, look, fake_look, keys, averages)
    return seen._replace(**changes)


def linear(examples):
    return (examples * WEIGHTS).sum((1, 2, 3)) + 3


def smooth(examples):
    """A small network that is nowhere flat and nowhere bent sharply."""
    first, second = jax.random.normal(jax.random.key(2), (2, 16, 8))
    return jnp.tanh(examples.reshape(-1, 16) @ first / 4) @ second[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("r1", SQUARE / 2),
        ("r2", SQUARE / 2),
        ("gp", (SQUARE**0.5 - 1) ** 2),
        ("dragan", (SQUARE**0.5 - 1) ** 2),
        ("zero_centred_gp", SQUARE),
    ],
)
def test_of_a_linear_discriminator_the_gradient_is_its_weights(name, expected):
    values = PENALTIES[name](make_seen(linear))
    np.testing.assert_allclose(values, np.full(5, expected), rtol=1e-5)


def test_the_gradients_norm_against_finite_differences():
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    step, squares = 1e-2, np.zeros(3)
    for pixel in range(16):
        bump = jnp.zeros(16).at[pixel].set(step).reshape(4, 4, 1)
        slope = (smooth(images + bump) - smooth(images - bump)) / (2 * step)
        squares += np.asarray(slope, np.float64) ** 2
    np.testing.assert_allclose(squared_gradient(smooth, images), squares, rtol=1e-3)


def test_where_each_takes_the_gradient():
    """D(x) = |x|^2 / 2 has x itself for a gradient: its norm says where that was."""

    def look(examples):
        return 0.5 * jnp.square(examples).sum((1, 2, 3))

    def square(examples):
        return np.square(examples).sum((1, 2, 3))

    seen = make_seen(look)
    np.testing.assert_allclose(PENALTIES["r1"](seen), square(seen.real) / 2, rtol=1e-5)
    np.testing.assert_allclose(PENALTIES["r2"](seen), square(seen.fake) / 2, rtol=1e-5)
    middle = square(between(seen))
    np.testing.assert_allclose(PENALTIES["zero_centred_gp"](seen), middle, rtol=1e-5)
    np.testing.assert_allclose(PENALTIES["gp"](seen), (middle**0.5 - 1) ** 2, rtol=1e-5)


def test_interpolates_lie_anywhere_between_a_pair():
    seen = make_seen(linear, num=400)
    shares = (between(seen) - seen.fake) / (seen.real - seen.fake)
    shares = np.asarray(shares).reshape(400, -1)
    assert np.ptp(np.median(shares, axis=1)) > 0.9
    np.testing.assert_allclose(shares, np.median(shares, axis=1, keepdims=True) + 0 * shares,
                               atol=0.02)  # fmt: skip
    assert abs(shares.mean() - 0.5) < 0.06  # four standard errors


def test_dragans_noise_is_uniform_within_half_a_deviation():
    seen = make_seen(linear, num=200)
    places = []

    def look(examples):
        jax.debug.callback(lambda x: places.append(np.asarray(x)), examples)
        return linear(examples)

    jax.block_until_ready(dragan(seen._replace(look_at_real=look)))
    jax.effects_barrier()
    noise = (places[0] - np.asarray(seen.real)) / float(seen.real.std())
    assert noise.min() >= -1e-6
    assert noise.max() <= 0.5 + 1e-6
    assert abs(noise.mean() - 0.25) < 0.01
    assert abs(noise.std() - 0.5 / 12**0.5) < 0.01


def test_consistency_is_of_shifted_images():
    """A D that counts ink does not mind a shift within a margin; one that has a place for it does."""
    image = jnp.zeros((64, 8, 8, 1)).at[:, 3:5, 3:5].set(1.0)
    seen = make_seen(linear, num=64)._replace(real=image, fake=image)

    def count(examples):
        return examples.sum((1, 2, 3))

    def place(examples):
        return (examples * jnp.arange(8.0)[:, None]).sum((1, 2, 3))

    for look in (count, place):
        seen = seen._replace(real_logits=look(image), fake_logits=look(image))
        values = bcr(seen._replace(look_at_real=look, look_at_fake=look))
        if look is count:
            np.testing.assert_array_equal(values, 0)
        else:  # 4 pixels move by up to one row of 8: the logit by 4 or not at all; real and fake
            assert set(np.asarray(values).tolist()) == {0.0, 32.0}


def test_lecam_by_hand():
    seen = make_seen(linear, real_logits=jnp.array([1.0, -2]), fake_logits=jnp.array([0.0, 3]))
    # Real logits from the fake average -0.25, fake ones from the real average 0.5.
    np.testing.assert_allclose(lecam(seen), [1.25**2 + 0.5**2, 1.75**2 + 2.5**2], rtol=1e-6)
    after = lecam_averages(seen.averages, jnp.float32(1), jnp.float32(-1))
    assert float(after["real"]) == pytest.approx(0.99 * 0.5 + 0.01)
    assert float(after["fake"]) == pytest.approx(0.99 * -0.25 - 0.01)


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty(name):
    penalty, seen = PENALTIES[name], make_seen(smooth)
    values = penalty(seen)
    assert values.shape == (5,)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    compiled = jax.jit(lambda real: penalty(seen._replace(real=real)))
    np.testing.assert_allclose(values, compiled(seen.real), rtol=1e-4)
    scaled = jax.grad(lambda scale: penalty(make_seen(lambda x: scale * smooth(x))).sum())
    assert np.isfinite(scaled(2.0))
    assert scaled(2.0) != 0


@pytest.mark.parametrize("name", GRADIENT_NORMS)
def test_a_discriminator_without_a_gradient_has_a_finite_penalty(name):
    def flat(scale):
        return PENALTIES[name](make_seen(lambda x: scale * 0 * x.sum((1, 2, 3)))).sum()

    assert np.isfinite(flat(1.0))
    assert np.isfinite(jax.grad(flat)(1.0))


@pytest.mark.parametrize("name", PENALTIES)
def test_micro_batches_and_members_have_the_penalty_of_the_whole(name, make_config):
    """DRAGAN's noise has the deviation of a micro-batch: it alone differs a little."""
    changes = {f"penalties.{name}": 0.5, "batch_size": 8, "discriminator.width": 8}
    changes |= {"generator.width": 8}
    config = make_config("configs/digits.py", {"penalties.r1": 0.0} | changes)
    whole = gans.make_gan(config, Spec((8, 8, 1), 10))
    state = gans.init(whole, config, jax.random.key(0))
    if name == "lecam":
        state = state.replace(aux={"lecam": {"real": jnp.float32(1), "fake": jnp.float32(-1)}})
    images = jax.random.randint(jax.random.key(1), (2, 1, 8, 8, 8, 1), 0, 256).astype(jnp.uint8)
    update = jax.jit(gans.update, static_argnums=0)
    _, expected = update(whole, state, {"images": images})
    split = dataclasses.replace(whole, accumulate=2)
    _, found = update(split, state, {"images": images.reshape(2, 2, 4, 8, 8, 1)})
    tolerance = 0.1 if name == "dragan" else 1e-5
    np.testing.assert_allclose(found[name], expected[name], rtol=tolerance)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    _, stacked = jax.vmap(lambda s: update(whole, s, {"images": images}))(states)
    np.testing.assert_allclose(stacked[name], [expected[name]] * 2, rtol=1e-4)

"""Optimisers against their papers' equations, clipping and schedules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimizers import OPTIMIZERS, clip_gradient, optimizer_fields, scheduled

NUMBERS = {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "momentum": 0.7, "decay": 0.8}
GRADIENTS = np.random.default_rng(0).normal(size=(6, 3))


def build(name):
    return OPTIMIZERS[name](**numbers_of(name))


def numbers_of(name):
    return {field: NUMBERS.get(field, 0.5) for field in optimizer_fields(name)}


def descend(name):
    """The point after each of the gradients, from the origin."""
    optimizer, point, points = build(name), jnp.zeros(3), []
    state = optimizer.init(point)
    for gradient in jnp.float32(GRADIENTS):
        update, state = optimizer.update(gradient, state, point)
        point = optax.apply_updates(point, update)
        points.append(point)
    return np.array(points)


def adam_steps():
    m, v, steps = np.zeros(3), np.zeros(3), []
    for t, gradient in enumerate(GRADIENTS, 1):
        m, v = 0.5 * m + 0.5 * gradient, 0.9 * v + 0.1 * gradient**2
        steps.append(0.1 * m / (1 - 0.5**t) / np.sqrt(v / (1 - 0.9**t)))
    return np.array(steps)


def before(steps):
    """The step before each, and of the first, which has none before, itself."""
    return np.vstack([steps[:1], steps[:-1]])


def forgetting(rate):
    """By what each gradient counts at each of six steps."""
    return np.array([[rate ** (t - i) if i <= t else 0 for i in range(6)] for t in range(6)])


PAPERS = {
    "sgd": 0.1 * GRADIENTS,
    "optimistic_sgd": 0.1 * (2 * GRADIENTS - before(GRADIENTS)),
    "momentum": 0.1 * forgetting(0.7) @ GRADIENTS,
    "rmsprop": 0.1 * GRADIENTS / np.sqrt(0.2 * forgetting(0.8) @ GRADIENTS**2),
    "adam": adam_steps(),
    "optimistic_adam": 2 * adam_steps() - before(adam_steps()),
}


@pytest.mark.parametrize("name", PAPERS)
def test_steps_by_the_papers_equations(name):
    np.testing.assert_allclose(descend(name), -PAPERS[name].cumsum(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numbers_can_be_traced(name):
    """A sweep varies them without another compilation, and a population has one each."""

    @jax.jit
    def step(numbers):
        optimizer = OPTIMIZERS[name](**numbers)
        return optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2))[0]

    numbers = numbers_of(name)
    for scale in (1.0, 0.5):
        scaled = {field: jnp.float32(scale * value) for field, value in numbers.items()}
        assert np.isfinite(step(scaled)).all()
    assert step._cache_size() == 1
    stacked = {field: jnp.float32([value] * 2) for field, value in numbers.items()}
    assert jax.vmap(step)(stacked).shape == (2, 2)


def test_the_optimistic_player_of_a_bilinear_game_converges_where_adam_does_not():
    """min over x, max over y of x y: Daskalakis et al. 2018, section 3."""

    def last_distance(name):
        optimizer = OPTIMIZERS[name](learning_rate=0.01, b1=0.0, b2=0.9)
        x, y = jnp.float32(1), jnp.float32(1)
        states = optimizer.init(x), optimizer.init(y)

        def step(carried, _):
            x, y, (x_state, y_state) = carried
            x_update, x_state = optimizer.update(y, x_state, x)
            y_update, y_state = optimizer.update(-x, y_state, y)
            return (x + x_update, y + y_update, (x_state, y_state)), jnp.hypot(x, y)

        return jax.lax.scan(step, (x, y, states), length=4_000)[1]

    adam, optimistic = last_distance("adam"), last_distance("optimistic_adam")
    assert float(optimistic[-500:].max()) < 0.1
    assert float(adam[-500:].min()) > 3 * float(optimistic[-500:].max())


def test_clipping_keeps_the_direction_and_bounds_the_norm():
    gradient = {"a": jnp.array([3.0, 0]), "b": jnp.array([[4.0]])}
    clipped, norm = clip_gradient(gradient, jnp.float32(1))
    assert float(norm) == 5
    np.testing.assert_allclose(clipped["a"], [0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[0.8]], rtol=1e-6)
    for limit in (0.0, 5.0, 7.0):  # off, or not reached: the same bits
        same, _ = clip_gradient(gradient, jnp.float32(limit))
        jax.tree.map(np.testing.assert_array_equal, same, gradient)
    still, _ = clip_gradient({"a": jnp.zeros(2)}, jnp.float32(1))
    np.testing.assert_array_equal(still["a"], [0, 0])


def test_the_schedule_is_half_a_cosine_and_then_constant():
    first, last = {"x": jnp.float32(1), "y": jnp.float32(0.3)}, {"x": jnp.float32(3), "y": 0.3}
    for progress, x in ((0, 1.0), (0.25, 2 - 0.5**0.5), (0.5, 2.0), (1, 3.0), (7, 3.0)):
        numbers = scheduled(first, last, jnp.float32(progress))
        assert float(numbers["x"]) == pytest.approx(x, rel=1e-6)
        assert numbers["y"] == first["y"]  # to the bit

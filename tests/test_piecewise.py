"""One backward pass for loss and penalty, against JAX's own derivatives of both."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gan as gans
import layers
from data import Spec
from models import DISCRIMINATORS
from penalties import squared
from piecewise import NotPiecewiseLinear, logits_and_gradients

NETWORKS = {
    "mlp": {},
    "dcgan": {"norm": "none"},
    "dcgan, spectral": {"norm": "spectral"},
    "resnet": {"norm": "none", "width": 16},
    "resnet, labels": {"norm": "none", "width": 16, "num_classes": 10},
    "r3gan": {"widths": (32, 16), "blocks": 1},
    "r3gan, labels": {"widths": (16,), "blocks": 1, "num_classes": 10},
    "dcgan, labels as channels": {"norm": "none", "num_classes": 10},
}


def looks(discriminator, changes, dtype=jnp.float32):
    """D of parameters and examples, its parameters, away from where they start, and examples."""
    keys = jax.random.split(jax.random.key(0), 3)
    examples = jax.random.normal(keys[0], (6, 16, 16, 1))
    network = discriminator(**changes, **({"dtype": dtype} if dtype != jnp.float32 else {}))
    labels = jnp.arange(6) if changes.get("num_classes") else None
    params, *variables = split(network.init(keys[1], examples, labels, train=True))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(keys[2], x.shape), params)

    def look(params, examples):
        held = {"params": params, **variables[0]}
        return network.apply(held, examples, labels, train=True, mutable=list(variables[0]))[0]

    return look, params, examples


def split(variables):
    return variables["params"], {k: x for k, x in variables.items() if k != "params"}


def plainly(look, params, examples):
    """What `logits_and_gradients` finds, without its derivative."""
    logits, pull = jax.vjp(functools.partial(look, params), examples)
    return logits, pull(jnp.ones_like(logits))[0]


def penalised(find, look, weights, params, examples):
    """A loss and a penalty, of other slopes at each example."""
    logits, gradients = find(look, params, examples)
    return jnp.sum(weights[0] * jax.nn.softplus(logits) + weights[1] * squared(gradients))


def assert_close(found, expected, tolerance):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * float(jnp.abs(y).max() + 1e-6))


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_derivatives_are_those_of_two_passes(name, platform):
    look, params, examples = looks(DISCRIMINATORS[name.split(",")[0]], NETWORKS[name])
    weights = jax.random.normal(jax.random.key(3), (2, 6))
    with layers.lowered_for(platform):
        for which in (logits_and_gradients, plainly):
            loss = functools.partial(penalised, which, look, weights)
            values = jax.jit(functools.partial(which, look))(params, examples)
            slopes = jax.jit(jax.grad(loss, (0, 1)))(params, examples)
            if which is logits_and_gradients:
                found = values, slopes
    assert_close(found, (values, slopes), 2e-5)


class Small(nn.Module):
    """A network whose one odd operation is `odd`."""

    odd: object

    @nn.compact
    def __call__(self, examples, labels, train):
        hidden = self.odd(nn.Conv(4, (3, 3), strides=2)(examples))
        return nn.Dense(1)(hidden.reshape(len(hidden), -1))[:, 0]


@jax.custom_vjp
def reversed_gradient(x):
    return 2 * x


reversed_gradient.defvjp(lambda x: (2 * x, None), lambda _, cotangents: (-cotangents,))


@jax.custom_jvp
def straight_through(x):
    return jnp.maximum(x, 0)


straight_through.defjvp(lambda x, t: (straight_through(*x), t[0]))

W = jnp.arange(16.0).reshape(4, 4) / 10


@jax.custom_jvp
@jax.jit
def relu(x):
    return jnp.maximum(x, 0)


relu.defjvp(lambda x, t: (relu(*x), t[0] * jax.nn.sigmoid(x[0])))

LINEAR = {
    "as it is": lambda x: x,
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "maximum with 0": lambda x: jnp.maximum(x, 0),
    "compiled, of several outputs": lambda x: jnp.where(*jax.jit(lambda x: (x > 0, 2 * x))(x), x),
    "a choice by the value": lambda x: jnp.where(x > 0.5, 3 * x, 1 - x),
    "channels first": lambda x: jnp.moveaxis(jnp.moveaxis(x, -1, 0) + 1, 1, 0),
    "pixels in one axis with examples": lambda x: (x.reshape(-1, 4) @ W - 1).reshape(x.shape),
    "a sum": lambda x: x.sum((1, 2)) / 3 + jnp.arange(4.0),
    "examples in a product's second operand": lambda x: (W @ x.mean((1, 2)).T).T,
    "a mask": lambda x: jnp.maximum(jnp.where(jnp.arange(4) > 1, x, -jnp.inf), 0),
    "channels joined": lambda x: jnp.concatenate([x, jnp.ones_like(x), -x], -1),
    "compiled apart": jax.jit(lambda x: 2 * x + 1),
}
OTHER = {
    "smooth": jnp.tanh,
    "square": jnp.square,
    "product of both": lambda x: x * (2 * x),
    "whole numbers": lambda x: x.astype(jnp.int32).astype(jnp.float32),
    "quotient": lambda x: 1 / (2 + x),
    "not looked at": jnp.ones_like,
    "printed": lambda x: jax.debug.print("{}", x) or x,
    "normalised": lambda x: x - x.mean(0),
    "neighbours": lambda x: x + jnp.roll(x, 1, axis=0),
    "groups of examples": lambda x: x.reshape(2, 3, -1).sum(1).repeat(3, 0),
    "joined with another": lambda x: jnp.concatenate([x, x[::-1]], 0)[3:9],
    "the first for all": lambda x: jnp.broadcast_to(x[:1], x.shape),
    "moved": lambda x: jnp.pad(x[1:], [(0, 1), (0, 0), (0, 0), (0, 0)]),
    "added to its transpose": lambda x: (y := x.reshape(6, -1)[:, :6]) + y.T,
    "examples multiplied with each other": lambda x: jnp.eye(6) @ x.reshape(6, -1),
    "the larger of a number": lambda x: jnp.maximum(x, 0.1),
    "a derivative of its own": straight_through,
    "a relu with a derivative of its own": relu,
    "a cotangent of its own": reversed_gradient,
}


@pytest.mark.parametrize("name", LINEAR)
def test_operations_that_are_linear_between_kinks(name):
    look, params, examples = looks(Small, {"odd": LINEAR[name]})
    weights = jax.random.normal(jax.random.key(3), (2, 6))
    found, expected = (
        jax.grad(functools.partial(penalised, which, look, weights), (0, 1))(params, examples)
        for which in (logits_and_gradients, plainly)
    )
    assert_close(found, expected, 2e-5)


@pytest.mark.parametrize("name", ["relu", "maximum with 0"])
def test_at_a_kink_the_derivative_is_jaxs(name):
    look, params, examples = looks(Small, {"odd": LINEAR[name]})
    params["Conv_0"]["bias"] = jnp.zeros(4)
    examples = examples.at[:3].set(0)
    weights = jax.random.normal(jax.random.key(3), (2, 6))
    found, expected = (
        jax.grad(functools.partial(penalised, which, look, weights), (0, 1))(params, examples)
        for which in (logits_and_gradients, plainly)
    )
    assert_close(found, expected, 2e-5)


@pytest.mark.parametrize("name", OTHER)
def test_what_is_not_is_refused(name):
    look, params, examples = looks(Small, {"odd": OTHER[name]})
    with pytest.raises(NotPiecewiseLinear):
        logits_and_gradients(look, params, examples)


@pytest.mark.parametrize("changes", [{"norm": "batch"}, {"norm": "layer"}, {"minibatch_stddev": 3}])
def test_networks_that_are_not(changes):
    look, params, examples = looks(DISCRIMINATORS["dcgan"], {"norm": "none"} | changes)
    with pytest.raises(NotPiecewiseLinear):
        logits_and_gradients(look, params, examples)


def test_what_it_cannot_differentiate_for():
    look, params, examples = looks(Small, {"odd": nn.relu})
    with pytest.raises(NotPiecewiseLinear):
        logits_and_gradients(lambda p, x: look(p[0], x), (params, jnp.arange(3)), examples)


def test_a_batch_of_one():
    """Its axis is gone for a moment: whatever is said then, the gradient is right or refused."""

    def look(params, examples):
        return (examples.sum((1, 2)).reshape(()) * params).reshape(1)

    with pytest.raises(NotPiecewiseLinear):
        logits_and_gradients(look, jnp.float32(2), jnp.ones((1, 3, 3)))


def test_examples_of_half_precision():
    def look(params, examples):
        return (nn.relu(examples + jnp.bfloat16(1)) @ params)[:, 0]

    params, examples = jax.random.normal(jax.random.key(0), (4, 1)), jnp.ones((6, 4), jnp.bfloat16)
    weights = jax.random.normal(jax.random.key(3), (2, 6))
    found, expected = (
        jax.grad(functools.partial(penalised, which, look, weights), (0, 1))(params, examples)
        for which in (logits_and_gradients, plainly)
    )
    assert_close(found, expected, 2e-2)


@pytest.mark.parametrize("name", ["dcgan", "resnet", "r3gan"])
def test_it_takes_two_thirds_of_the_operations(name):
    look, params, examples = looks(DISCRIMINATORS[name], NETWORKS[name])
    weights = jnp.ones((2, 6))
    counts = []
    with layers.lowered_for("cuda"):  # groups in one convolution
        for which in (logits_and_gradients, plainly):
            loss = functools.partial(penalised, which, look, weights)
            cost = jax.jit(jax.grad(loss)).lower(params, examples).compile().cost_analysis()
            counts.append(cost["flops"])
    assert counts[0] < 0.7 * counts[1]


def test_in_bfloat16_it_is_as_near_to_float32_as_two_passes_are():
    weights = jax.random.normal(jax.random.key(3), (2, 6))
    gradients = {}
    for which in (logits_and_gradients, plainly):
        for dtype in (jnp.float32, jnp.bfloat16):
            look, params, examples = looks(DISCRIMINATORS["r3gan"], NETWORKS["r3gan"], dtype)
            loss = functools.partial(penalised, which, look, weights)
            leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(params, examples))
            gradients[which, dtype] = jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])
    exact = gradients[plainly, jnp.float32]
    errors = [
        float(jnp.linalg.norm(gradients[which, jnp.bfloat16] - exact) / jnp.linalg.norm(exact))
        for which in (logits_and_gradients, plainly)
    ]
    assert errors[0] < 1.2 * errors[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 2, "packing": 2},
        {"conditional": True, "lazy_every": 4},
        {"d_augment.translation": 1.0, "d_augment.color": 1.0, "d_augment_probability": 0.7},
        {"penalties.lecam": 0.3, "penalties.bcr": 0.5, "penalties.gp": 0.0},
        {"discriminator.name": "dcgan", "discriminator.norm": "none", "loss": "hinge"},
        {"discriminator.name": "resnet", "discriminator.norm": "none", "penalties.r2": 0.0},
    ],
)
def test_a_step_is_the_same_without_it(changes, make_config, monkeypatch):
    small = {"batch_size": 8, "generator.widths": (8,), "discriminator.widths": (8,)}
    config = make_config("configs/digits.py:r3gan", small | changes)
    gan = gans.make_gan(config, Spec((8, 8, 1), 10))
    state = gans.init(gan, config, jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        name: rng.integers(0, 10 if name == "labels" else 256, x.shape).astype(x.dtype)
        for name, x in gans.abstract_batch(gan).items()
    }
    taken = []

    def watched(*args):
        taken.append(logits_and_gradients(*args))
        return taken[-1]

    def refused(*args):
        raise NotPiecewiseLinear

    monkeypatch.setattr(gans, "logits_and_gradients", watched)
    found = jax.jit(functools.partial(gans.gradients, gan))(state, batch)
    assert taken
    monkeypatch.setattr(gans, "logits_and_gradients", refused)
    expected = jax.jit(functools.partial(gans.gradients, gan))(state, batch)
    assert_close(found, expected, 2e-4)


@pytest.mark.slow
def test_members_of_a_population_and_derivatives_of_a_step():
    look, params, examples = looks(DISCRIMINATORS["r3gan"], NETWORKS["r3gan"])
    weights = jax.random.normal(jax.random.key(3), (2, 6))

    def stepped(which, params):
        """The loss after a descent."""
        loss = functools.partial(penalised, which, look, weights)
        grads = jax.grad(loss)(params, examples)
        return loss(jax.tree.map(lambda x, g: x - 1e-3 * g, params, grads), examples)

    members = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x]), params)
    found, expected = (
        jax.jit(jax.vmap(jax.grad(functools.partial(stepped, which))))(members)
        for which in (logits_and_gradients, plainly)
    )
    assert_close(found, expected, 1e-4)

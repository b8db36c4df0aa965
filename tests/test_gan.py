"""The heart: gradients against NumPy, and everything that a caller of `update` relies on."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gan as gans
from data import Spec

SPEC = Spec((8, 8, 1), 10)
RECIPES = ("goodfellow", "mescheder", "dcgan")


class LinearGenerator(nn.Module):
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, latents, labels, train):
        return nn.Dense(self.shape[0])(latents)


class LinearDiscriminator(nn.Module):
    @nn.compact
    def __call__(self, points, labels, train):
        return nn.Dense(1)(points)[:, 0]


def linear_gan(**changes: Any) -> gans.Gan:
    gan = gans.Gan(
        generator=LinearGenerator((2,)),
        discriminator=LinearDiscriminator(),
        generator_optimizer="sgd",
        discriminator_optimizer="sgd",
        loss="minimax",
        penalties=(),
        augmentations=(),
        d_augmentations=(),
        adaptive=False,
        num_classes=0,
        packing=1,
        latent_dim=3,
        batch_size=16,
        accumulate=1,
        d_steps=1,
        update_rule="alternating",
        standing_batches=0,
        lazy_every=1,
    )
    return dataclasses.replace(gan, **changes)


NUMBERS: dict[str, Any] = {"penalties": {}, "d_augment_probability": 1.0}


def examples(real, latents):
    """One micro-batch, without labels."""
    keys = jax.random.split(jax.random.key(0), (len(real), 3))
    return gans.Examples(real, None, latents, keys)


def small(make_config, recipe="goodfellow", **changes):
    """A config, its GAN and first state, small enough to compile in a second."""
    sizes = {"batch_size": 8, "generator.width": 8, "discriminator.width": 8}
    config = make_config(f"configs/digits.py:{recipe}", sizes | changes)
    gan = gans.make_gan(config, SPEC)
    return config, gan, gans.init(gan, config, jax.random.key(0))


def make_batch(gan: gans.Gan, seed: int = 0) -> dict[str, jax.Array]:
    abstract = gans.abstract_batch(gan)["images"]
    values = jax.random.uniform(jax.random.key(seed), abstract.shape)
    return {"images": (values * 255).astype(jnp.uint8) if abstract.ndim == 6 else values}


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, unkeyed(a), unkeyed(b))


def assert_close(a, b, rtol):
    """Every leaf to `rtol` of its largest value."""
    for x, y in zip(jax.tree.leaves(unkeyed(a)), jax.tree.leaves(unkeyed(b))):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * max(np.abs(y).max(), 1e-8))


def assert_same_descent(before, after, expected, rtol, noise=0.0):
    """What SGD has subtracted, gradient times rate, to `rtol` of each gradient's largest value.

    Batch normalisation makes some gradients zero: those are rounding noise of the network's. And
    what was subtracted is known to the rounding of the parameter alone. `noise` is of gradients
    that a loss makes zero, as a relativistic one does D's last bias: sums of what cancels.
    """
    for player in ("generator", "discriminator"):
        a, b, start = (getattr(state, player).params for state in (after, expected, before))
        ours, theirs = (jax.tree.map(lambda x, y: y - x, moved, start) for moved in (a, b))
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
        assert largest > 0
        for x, y, param in zip(*map(jax.tree.leaves, (ours, theirs, start))):
            scale = max(float(jnp.abs(y).max()), 1e-3 * largest)
            rounding = np.finfo(np.float32).eps * float(jnp.abs(param).max())
            np.testing.assert_allclose(x, y, rtol=0, atol=rtol * scale + rounding + noise)


def unkeyed(state):
    return state.replace(key=jax.random.key_data(state.key)) if hasattr(state, "key") else state


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_both_gradients_of_a_linear_gan_by_hand():
    """G(z) = z W + a, D(x) = x v + c: the minimax game, differentiated on paper, in NumPy."""
    rng = np.random.default_rng(0)
    W, a = rng.normal(size=(3, 2)), rng.normal(size=2)
    v, c = rng.normal(size=2), rng.normal()
    real, latents = rng.normal(size=(16, 2)), rng.normal(size=(16, 3))
    fake = latents @ W + a
    # L_D = -mean log s(D(x)) - mean log(1 - s(D(fake))), L_G = mean log(1 - s(D(fake)))
    on_real, on_fake = -sigmoid(-(real @ v + c)) / 16, sigmoid(fake @ v + c) / 16
    expected_d = (real.T @ on_real + fake.T @ on_fake, (on_real + on_fake).sum())
    on_images = -on_fake[:, None] * v
    expected_g = (latents.T @ on_images, on_images.sum(0))

    gan = linear_gan()
    g_params = {"Dense_0": {"kernel": jnp.float32(W), "bias": jnp.float32(a)}}
    d_params = {"Dense_0": {"kernel": jnp.float32(v[:, None]), "bias": jnp.float32([c])}}
    generator = gans.Player(g_params, {}, ())
    discriminator = gans.Player(d_params, {}, ())
    data = examples(jnp.float32(real), jnp.float32(latents))
    d_grad, _ = jax.grad(
        lambda p: gans.discriminator_loss(gan, NUMBERS, True, generator, {}, p, {}, data),
        has_aux=True,
    )(d_params)
    g_grad, _ = jax.grad(
        lambda p: gans.generator_loss(gan, NUMBERS, discriminator, {}, p, {}, data), has_aux=True
    )(g_params)
    np.testing.assert_allclose(d_grad["Dense_0"]["kernel"][:, 0], expected_d[0], rtol=1e-4)
    np.testing.assert_allclose(d_grad["Dense_0"]["bias"][0], expected_d[1], rtol=1e-4)
    np.testing.assert_allclose(g_grad["Dense_0"]["kernel"], expected_g[0], rtol=1e-4)
    np.testing.assert_allclose(g_grad["Dense_0"]["bias"], expected_g[1], rtol=1e-4)


def test_update_descends_each_player_on_its_own_loss_one_after_the_other(make_config):
    """D moves against its gradient; G against its own, through the D that has moved."""
    config, gan, state = small(make_config)
    batch = make_batch(gan)
    after, metrics = gans.update(gan, state, batch)
    rate = config.optimizer.generator.learning_rate
    key, d_key = jax.random.split(jax.random.fold_in(state.key, 0))
    d_latents, g_latents = (
        jax.random.normal(jax.random.split(k, 1)[0], (8, gan.latent_dim)) for k in (d_key, key)
    )
    d_real, g_real = (batch["images"].astype(jnp.float32) / 127.5 - 1)[:, 0]

    def d_loss(params):
        seen = examples(d_real, d_latents)
        numbers = state.hparams
        return gans.discriminator_loss(gan, numbers, True, state.generator, {}, params, {}, seen)[0]

    def g_loss(params):
        seen = examples(g_real, g_latents)
        return gans.generator_loss(gan, state.hparams, after.discriminator, {}, params, {}, seen)[0]

    for player, loss in (("discriminator", d_loss), ("generator", g_loss)):
        before = getattr(state, player).params
        rate = config.optimizer[player].learning_rate
        expected = jax.tree.map(lambda p, g, r=rate: p - r * g, before, jax.grad(loss)(before))
        descents = (
            jax.tree.map(lambda p, q: p - q, before, x)
            for x in (getattr(after, player).params, expected)
        )
        assert_close(*descents, rtol=1e-4)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(before))))
        assert float(metrics[f"{player[0]}_grad_norm"]) == pytest.approx(float(norm), rel=1e-4)
    assert float(metrics["d_loss"]) == pytest.approx(float(d_loss(state.discriminator.params)))
    assert float(metrics["g_loss"]) == pytest.approx(float(g_loss(state.generator.params)))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("still", "moving"), [("generator", "discriminator"), ("discriminator", "generator")]
)
def test_a_player_is_not_touched_by_the_others_descent(make_config, recipe, still, moving):
    _, gan, state = small(make_config, recipe)
    standing = {**state.hparams[still], "learning_rate": jnp.float32(0)}
    end = {**state.hparams["end"], still: standing}
    hparams = {**state.hparams, still: standing, "end": end}
    after, _ = gans.update(gan, state.replace(hparams=hparams), make_batch(gan))
    assert_equal(getattr(after, still).params, getattr(state, still).params)
    changed = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        getattr(after, moving).params,
        getattr(state, moving).params,
    )
    assert any(jax.tree.leaves(changed))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_gives_the_same_bits_and_another_other_ones(make_config, recipe):
    config, gan, _ = small(make_config, recipe)
    step = jax.jit(gans.update, static_argnums=0)

    def train(seed):
        state = gans.init(gan, config, jax.random.key(seed))
        for i in range(3):
            state, _ = step(gan, state, make_batch(gan, i))
        return state

    assert_equal(train(1), train(1))
    first, other = (train(seed).generator.params["Dense_0"]["kernel"] for seed in (1, 2))
    assert (first != other).any()


@pytest.mark.parametrize("recipe", RECIPES)
def test_jit_and_vmap_agree_with_eager_calls(make_config, recipe):
    """One step with SGD of rate 1, whose result is the gradients and the parameters."""
    sgd = {f"optimizer.{p}.name": "sgd" for p in ("generator", "discriminator")}
    rate = {f"optimizer.{p}.learning_rate": 1.0 for p in ("generator", "discriminator")}
    config, gan, _ = small(make_config, recipe, **sgd, **rate)
    states = [gans.init(gan, config, jax.random.key(seed)) for seed in range(3)]
    batches = [make_batch(gan, seed) for seed in range(3)]
    eager = [gans.update(gan, state, batch) for state, batch in zip(states, batches)]

    jitted = jax.jit(gans.update, static_argnums=0)(gan, states[0], batches[0])
    assert_same_descent(states[0], jitted[0], eager[0][0], rtol=1e-4)
    assert_close(jitted[0].average, eager[0][0].average, rtol=1e-4)
    assert_close(jitted[1], eager[0][1], rtol=1e-4)

    stacked_state, stacked_batch = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in (states, batches)
    )
    stacked = jax.jit(jax.vmap(lambda s, b: gans.update(gan, s, b)))(stacked_state, stacked_batch)
    for i, (state, metrics) in enumerate(eager):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        assert_same_descent(states[i], member[0], state, rtol=1e-4)
        assert_close(member[0].average, state.average, rtol=1e-4)
        assert_close(member[1], metrics, rtol=1e-4)


def test_one_compilation_for_many_steps_and_for_equal_gans(make_config, count_compilations):
    config, gan, state = small(make_config, "mescheder")
    batch = make_batch(gan)

    @functools.partial(jax.jit, static_argnums=0)
    def step(gan, state, batch):
        return gans.update(gan, state, batch)

    step(gan, state, batch)
    again = gans.make_gan(make_config("configs/digits.py:mescheder", config_sizes()), SPEC)
    assert again is not gan
    assert again == gan
    assert hash(again) == hash(gan)
    with count_compilations() as compilations:
        for i in range(100):
            state, _ = step(gan if i % 2 else again, state, batch)
        hparams = jax.tree.map(lambda x: x * 2, state.hparams)
    # Doubling the hyper-parameters compiles a multiplication; the step with them does not.
    with count_compilations() as more:
        step(gan, state.replace(hparams=hparams), batch)
    assert step._cache_size() == 1
    assert not more
    assert len(compilations) <= 1


def config_sizes():
    return {"batch_size": 8, "generator.width": 8, "discriminator.width": 8}


@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(make_config, loss):
    """Networks and losses that treat examples one by one; R1 and augmentation are such, too."""
    changes = {
        "loss": loss,
        "penalties.r1": 1.0,
        "augment.crop": 1,
        "augment.flip": 0.5,
        "optimizer.generator.learning_rate": 1.0,
        "optimizer.discriminator.learning_rate": 1.0,
    }
    _, whole, state = small(make_config, **changes)
    batch = make_batch(whole)
    expected, metrics = gans.update(whole, state, batch)
    for accumulate in (2, 4, 8):
        _, gan, _ = small(make_config, **changes, accumulate=accumulate)
        images = batch["images"].reshape(gans.abstract_batch(gan)["images"].shape)
        after, micro_metrics = gans.update(gan, state, {"images": images})
        assert_same_descent(state, after, expected, rtol=1e-5)
        assert_close(micro_metrics, metrics, rtol=1e-5)


@pytest.mark.parametrize("recipe", ["goodfellow", "dcgan"])
def test_micro_batches_save_memory(make_config, recipe):
    """What a step needs beside its arguments: MLPs in a loop, convolutions one by one."""
    needed = []
    for accumulate in (1, 8):
        sizes = {"batch_size": 512, "accumulate": accumulate}
        config = make_config(f"configs/digits.py:{recipe}", sizes)
        gan = gans.make_gan(config, SPEC)
        state = jax.eval_shape(lambda g=gan, c=config: gans.init(g, c, jax.random.key(0)))
        step = jax.jit(gans.update, static_argnums=0).lower(gan, state, gans.abstract_batch(gan))
        needed.append(step.compile().memory_analysis().temp_size_in_bytes)
    assert needed[1] < needed[0] / 1.5


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_convolution_is_in_a_loop_on_a_cpu(make_config, accumulate):
    """XLA would run it single-threaded and naively there, ten times slower and more."""
    # Every convolution of a DCGAN for 8x8 pixels is from or to their one channel, and so a product.
    _, gan, state = small(make_config, "sngan", accumulate=accumulate)

    def loops(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("scan", "while"):
                yield str(equation)
            for inner in jax.tree.leaves(list(equation.params.values())):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from loops(getattr(inner, "jaxpr", inner))

    step = jax.make_jaxpr(gans.update, static_argnums=0)(gan, state, make_batch(gan))
    assert "conv_general_dilated" in str(step)
    assert not [loop for loop in loops(step.jaxpr) if "conv_general_dilated" in loop]
    _, gan, state = small(make_config, "goodfellow", accumulate=4)
    step = jax.make_jaxpr(gans.update, static_argnums=0)(gan, state, make_batch(gan))
    assert [loop for loop in loops(step.jaxpr) if "dot_general" in loop]  # MLPs are in one


def moved_by(state, grads, rate):
    """Both players' parameters after one step of gradient descent."""
    params = state.generator.params, state.discriminator.params
    return jax.tree.map(lambda x, g: x - rate * g, params, grads)


@pytest.mark.parametrize("rule", gans.UPDATE_RULES)
def test_who_answers_whom(make_config, rule):
    """Each rule, put together out of `gradients`, which are both players' at one state."""
    rate = 0.5
    rates = dict.fromkeys(
        (f"optimizer.{player}.learning_rate" for player in ("generator", "discriminator")), rate
    )
    _, gan, state = small(make_config, update_rule=rule, **rates)
    batch = make_batch(gan)
    after, _ = gans.update(gan, state, batch)

    def at(params):
        g_params, d_params = params
        return state.replace(
            generator=state.generator.replace(params=g_params),
            discriminator=state.discriminator.replace(params=d_params),
        )

    here = gans.gradients(gan, state, batch)
    g_params, d_params = moved_by(state, here, rate)
    if rule == "alternating":
        g_grads, _ = gans.gradients(gan, at((state.generator.params, d_params)), batch)
        g_params, _ = moved_by(state, (g_grads, here[1]), rate)
    elif rule == "extragradient":
        there = gans.gradients(gan, at((g_params, d_params)), batch)
        g_params, d_params = moved_by(state, there, rate)
    expected = g_params, d_params
    found = after.generator.params, after.discriminator.params
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    others = [name for name in gans.UPDATE_RULES if name != rule]
    for other in others:
        differs, _ = gans.update(dataclasses.replace(gan, update_rule=other), state, batch)
        kernel = differs.generator.params["Dense_0"]["kernel"]
        assert not np.allclose(kernel, after.generator.params["Dense_0"]["kernel"], rtol=1e-5)


def test_several_discriminator_steps_take_a_fresh_batch_each(make_config):
    _, gan, state = small(make_config, d_steps=3)
    batch = make_batch(gan)
    assert batch["images"].shape == (4, 1, 8, 8, 8, 1)
    after, _ = gans.update(gan, state, batch)
    for i in range(4):
        images = batch["images"].at[i].set(0)
        changed, _ = gans.update(gan, state, {"images": images})
        moved = (
            changed.discriminator.params["Dense_0"]["kernel"]
            != after.discriminator.params["Dense_0"]["kernel"]
        ).any()
        assert moved == (i < 3)  # the last batch is G's, and this loss does not look at it


def test_penalties_are_in_lazy_steps_alone_and_that_much_heavier(make_config):
    changes = {"penalties.r1": 0.5, "optimizer.discriminator.learning_rate": 1.0}
    _, every, state = small(make_config, **changes)
    _, lazily, _ = small(make_config, **changes, lazy_every=4)
    _, without, _ = small(make_config, **(changes | {"penalties.r1": 0.0}))
    batch = make_batch(every)

    def kernel(gan, lazy):
        after, metrics = gans.update(gan, state, batch, lazy)
        assert ("r1" in metrics) == (lazy and bool(gan.penalties))
        return np.asarray(after.discriminator.params["Dense_0"]["kernel"])

    plain = kernel(without, True)
    np.testing.assert_array_equal(kernel(lazily, False), plain)
    np.testing.assert_allclose(
        kernel(lazily, True) - plain, 4 * (kernel(every, True) - plain), rtol=1e-3, atol=1e-6
    )


def test_batch_statistics_are_apart_for_real_and_fake_and_change_in_ds_updates_alone(make_config):
    config = make_config("configs/mnist.py:dcgan", config_sizes() | {"latent_dim": 8})
    gan = gans.make_gan(config, Spec((28, 28, 1), 10))
    state = gans.init(gan, config, jax.random.key(0))
    batch = make_batch(gan)
    after, _ = gans.update(gan, state, batch)

    # Real, then fake, each normalised by its own batch, and nothing else.
    key, d_key = jax.random.split(jax.random.fold_in(state.key, 0))
    latents = jax.random.normal(jax.random.split(d_key, 1)[0], (8, 8))
    generator, discriminator = state.generator, state.discriminator
    fake, _ = gan.generator.apply(
        {"params": generator.params, **generator.variables},
        latents, None, train=True, mutable=["batch_stats"],
    )  # fmt: skip
    variables = discriminator.variables
    for images in (gans.to_float(batch["images"][0, 0]), fake):
        _, variables = gan.discriminator.apply(
            {"params": discriminator.params, **variables},
            images, None, train=True, mutable=["batch_stats"],
        )  # fmt: skip
    assert_close(after.discriminator.variables, variables, rtol=1e-5)
    # G's move in its own update, by its own latents.
    latents = jax.random.normal(jax.random.split(key, 1)[0], (8, 8))
    _, variables = gan.generator.apply(
        {"params": generator.params, **generator.variables},
        latents, None, train=True, mutable=["batch_stats"],
    )  # fmt: skip
    assert_close(after.generator.variables, variables, rtol=1e-5)


def test_d_accuracy_is_of_real_and_fake_alike():
    """A line between the points: 3 of 4 real ones and 1 of 4 fake ones lie on their own side."""
    gan = linear_gan(batch_size=4)
    generator = gans.Player({"Dense_0": {"kernel": jnp.eye(3, 2), "bias": jnp.zeros(2)}}, {}, ())
    d_params = {"Dense_0": {"kernel": jnp.array([[1.0], [0.0]]), "bias": jnp.zeros(1)}}
    real = jnp.array([[1.0, 0], [2, 0], [3, 0], [-1, 0]])
    latents = jnp.array([[1.0, 0, 0], [2, 0, 0], [3, 0, 0], [-1, 0, 0]])
    for points, expected in ((real, (3 + 1) / 8), (-real, (1 + 1) / 8)):
        _, (_, metrics) = gans.discriminator_loss(
            gan, NUMBERS, True, generator, {}, d_params, {}, examples(points, latents)
        )
        assert float(metrics["d_accuracy"]) == expected


def test_the_average_has_the_batch_statistics_too(make_config):
    _, gan, state = small(make_config, "dcgan", ema_half_life=8.0)  # one step of 8
    after, _ = gans.update(gan, state, make_batch(gan))
    ours, old, new = (x.variables for x in (after.average, state.average, after.generator))
    assert jax.tree.leaves(ours)
    assert_close(ours, jax.tree.map(lambda a, b: (a + b) / 2, old, new), rtol=1e-5)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), ours, new)))


def test_the_average_forgets_half_in_its_half_life(make_config):
    _, gan, state = small(make_config, ema_half_life=16.0)  # two steps of 8
    states = [state]
    for i in range(3):
        states.append(gans.update(gan, states[-1], make_batch(gan, i))[0])
    expected = states[0].generator.params
    for after in states[1:]:
        expected = jax.tree.map(
            lambda old, new: 0.5**0.5 * old + (1 - 0.5**0.5) * new,
            expected, after.generator.params,
        )  # fmt: skip
    assert_close(states[-1].average.params, expected, rtol=1e-5)
    _, gan, state = small(make_config, ema_half_life=0.0)
    after, _ = gans.update(gan, state, make_batch(gan))
    assert_equal(after.average.params, after.generator.params)


@pytest.mark.parametrize("lazy_every", [1, 3])
def test_steps_in_one_call_are_those_of_single_calls(make_config, lazy_every):
    """However many a call takes the bits are the same; those of no loop are as near as rounding.

    Stated: one step agrees to 1e-4 of each gradient's largest value.
    """
    changes = {f"optimizer.{player}.name": "sgd" for player in ("generator", "discriminator")}
    _, gan, first = small(make_config, "mescheder", lazy_every=lazy_every, **changes)
    batches = [make_batch(gan, seed)["images"] for seed in range(7)]

    @jax.jit
    def steps(state, images, num):
        return gans.updates(gan, state, lambda i: {"images": images[i]}, num)

    def divided(*sizes):
        state, start = first, 0
        for size in sizes:
            images = jnp.stack([*batches[start : start + size], *batches[: 7 - size]])
            state, metrics = steps(state, images, size)
            start += size
        return state, metrics

    whole = divided(7)
    assert int(whole[0].step) == 7
    for sizes in ((1,) * 7, (3, 4), (5, 1, 1)):
        for ours, theirs in zip(divided(*sizes), whole):
            assert_equal(ours, theirs)
    assert steps._cache_size() == 1
    known = jax.jit(functools.partial(steps.__wrapped__, num=7))  # as in a whole call of train.py
    for ours, theirs in zip(known(first, jnp.stack(batches)), whole):
        assert_equal(ours, theirs)
    for i in range(3):
        lazy = (i + 1) % lazy_every == 0
        looped, metrics = steps(first.replace(step=jnp.int32(i)), jnp.stack(batches), 1)
        alone, expected = gans.update(
            gan, first.replace(step=jnp.int32(i)), {"images": batches[0]}, lazy
        )
        assert_same_descent(first, looped, alone, rtol=1e-4)
        assert (float(metrics["r1"]) > 0) == lazy
        for name in expected:
            assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=1e-4)


def test_the_state_can_be_donated(make_config):
    _, gan, state = small(make_config, "mescheder")
    batch = make_batch(gan)
    expected, _ = gans.update(gan, state, batch)
    copy = jax.tree.map(jnp.copy, state)
    donated, _ = jax.jit(gans.update, static_argnums=0, donate_argnums=1)(gan, copy, batch)
    assert copy.generator.params["Dense_0"]["kernel"].is_deleted()
    assert_close(donated, expected, rtol=1e-4)


def test_bfloat16_keeps_parameters_and_losses(make_config):
    _, gan, state = small(make_config, "dcgan")
    _, half, half_state = small(make_config, "dcgan", precision="bfloat16")
    assert_equal(half_state, state)
    batch = make_batch(gan)
    after, metrics = gans.update(gan, state, batch)
    half_after, half_metrics = gans.update(half, half_state, batch)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(half_after.generator.params)}
    assert dtypes == {jnp.dtype("float32")}
    assert float(half_metrics["d_loss"]) == pytest.approx(float(metrics["d_loss"]), rel=0.05)
    logits = [float(found["d_fake_logit"]) for found in (metrics, half_metrics)]
    assert abs(logits[0] - logits[1]) > 1e-4 * abs(logits[0])  # it is another arithmetic


def test_points_stay_as_they_are_and_images_are_scaled_and_rounded():
    points = jnp.array([[0.5, -3.0]])
    assert gans.to_float(points) is points
    pixels = jnp.arange(256, dtype=jnp.uint8)
    floats = gans.to_float(pixels)
    assert float(floats[0]) == -1
    assert float(floats[-1]) == 1
    np.testing.assert_array_equal(gans.to_uint8(floats), pixels)
    extremes = jnp.array([-7.0, 7.0, 0.9999])
    np.testing.assert_array_equal(gans.to_uint8(extremes), [0, 255, 255])

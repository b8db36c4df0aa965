"""What methods add to an update: labels, packs, constraints, schedules, what is carried on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_gan import assert_close, assert_equal, assert_same_descent, make_batch, small

import gan as gans
from models import MOMENTUM
from penalties import PENALTIES


def test_packs_are_examples_side_by_side_in_channels():
    images = jnp.arange(6 * 2 * 2 * 3.0).reshape(6, 2, 2, 3)
    packed = gans.pack(images, 2)
    assert packed.shape == (3, 2, 2, 6)
    for i in range(3):
        np.testing.assert_array_equal(packed[i, :, :, :3], images[2 * i])
        np.testing.assert_array_equal(packed[i, :, :, 3:], images[2 * i + 1])
    np.testing.assert_array_equal(gans.unpack(packed, 2), images)
    points = jnp.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(gans.pack(points, 4), points.reshape(1, 8))
    assert gans.pack(images, 1).shape == images.shape


@pytest.mark.parametrize("name", [*PENALTIES, "translation"])
def test_a_packed_discriminator_judges_packs(make_config, name):
    """Twice the inputs, a logit a pack; penalties and augmentations fit."""
    kind = "penalties" if name in PENALTIES else "d_augment"
    changes = {"penalties.r1": 0.0, f"{kind}.{name}": 1.0}
    _, gan, state = small(make_config, "mescheder", packing=2, **changes)
    assert state.discriminator.params["Dense_0"]["kernel"].shape[0] == 2 * 64
    after, metrics = gans.update(gan, state, make_batch(gan))
    assert all(np.isfinite(value) for value in metrics.values())
    accuracy = float(metrics["d_accuracy"]) * 8  # of 4 real and 4 fake packs
    assert accuracy == round(accuracy)
    assert float(metrics["g_grad_norm"]) > 0


def test_every_number_with_an_end_gets_there(make_config):
    """After half of decay_images the learning rate of SGD is half way down, and so on."""
    changes = {
        "decay_images": 16,  # two steps of 8
        "optimizer.generator.learning_rate": 1.0,
        "optimizer.generator.learning_rate_end": 0.5,
        "optimizer.discriminator.learning_rate": 1.0,
        "penalties.r1": 2.0,
        "penalties.r1_end": 0.0,
        "ema_half_life": 0.0,
        "ema_half_life_end": 8.0,
    }
    _, gan, state = small(make_config, **changes)
    _, constant, constant_state = small(make_config, **(changes | {"decay_images": 0}))
    first = gans.numbers_now(constant, constant_state)  # of a schedule that is off
    assert_close(gans.numbers_now(constant, constant_state.replace(step=jnp.int32(9))), first, 0)
    batch = make_batch(gan)
    for step, (rate, weight, half_life) in enumerate([(1, 2, 0), (0.75, 1, 4), (0.5, 0, 8)]):
        now = state.replace(step=jnp.int32(step))
        after, _ = gans.update(gan, now, batch)
        numbers = {name: constant_state.hparams[name] for name in constant_state.hparams["end"]}
        numbers["generator"] = {**numbers["generator"], "learning_rate": jnp.float32(rate)}
        numbers["penalties"] = {"r1": jnp.float32(weight)}
        numbers["ema_half_life"] = jnp.float32(half_life)
        hparams = {**numbers, "end": numbers, "decay_images": jnp.float32(0)}
        expected, _ = gans.update(constant, now.replace(hparams=hparams), batch)
        assert_same_descent(now, after, expected, rtol=1e-5)
        assert_close(after.average, expected.average, rtol=1e-6)


def test_betas_are_scheduled_too(make_config):
    changes = {"decay_images": 8, "optimizer.generator.b2_end": 0.9}
    _, gan, state = small(make_config, "mescheder", **changes)
    at_end = gans.update(gan, state.replace(step=jnp.int32(5)), make_batch(gan))[0]
    changes = {"optimizer.generator.b2": 0.9}
    _, gan, state = small(make_config, "mescheder", **changes)
    expected = gans.update(gan, state.replace(step=jnp.int32(5)), make_batch(gan))[0]
    assert_close(at_end.generator, expected.generator, rtol=1e-6)


def test_weight_clipping_bounds_the_discriminator_alone(make_config):
    changes = {f"optimizer.{p}.learning_rate": 10.0 for p in ("generator", "discriminator")}
    changes |= {"weight_clip": 0.01, "loss": "wasserstein"}
    _, gan, state = small(make_config, d_steps=2, **changes)
    after, _ = gans.update(gan, state, make_batch(gan))
    largest = [float(jnp.abs(x).max()) for x in jax.tree.leaves(after.discriminator.params)]
    assert max(largest) == pytest.approx(0.01)
    assert float(jnp.abs(after.generator.params["Dense_0"]["kernel"]).max()) > 0.01


def test_each_player_clips_its_own_gradient(make_config):
    changes = {f"optimizer.{p}.learning_rate": 1.0 for p in ("generator", "discriminator")}
    limits = {"optimizer.generator.clip_norm": 1e-3, "optimizer.discriminator.clip_norm": 2e-3}
    _, gan, state = small(make_config, **changes, **limits)
    after, metrics = gans.update(gan, state, make_batch(gan))
    for player, limit in (("generator", 1e-3), ("discriminator", 2e-3)):
        before, moved = (getattr(s, player).params for s in (state, after))
        length = optax.tree.norm(jax.tree.map(jnp.subtract, moved, before))
        assert float(length) == pytest.approx(limit, rel=1e-2)
        assert float(metrics[f"{player[0]}_grad_norm"]) > limit  # before it was clipped


def adaptive(make_config, **changes):
    changes |= {"d_augment.translation": 1.0, "ada_target": 0.6, "ada_images": 80}
    return small(make_config, "mescheder", **changes)


def test_adas_probability_follows_the_discriminators_sign(make_config):
    _, gan, state = adaptive(make_config)
    batch = make_batch(gan)
    after, metrics = gans.update(gan, state, batch)
    assert float(state.aux["ada"]) == 0
    sign = float(metrics["d_real_sign"])
    expected = 0.1 if sign > 0.6 else 0.0  # 8 of 80 images
    assert float(after.aux["ada"]) == pytest.approx(expected)
    assert float(metrics["ada_probability"]) == pytest.approx(expected)
    # A D that is sure of real images raises it, one that is not lowers it.
    bias = state.discriminator.params["Dense_2"]["bias"]
    for shift, change in ((100.0, 0.1), (-100.0, -0.1)):
        params = {**state.discriminator.params}
        params["Dense_2"] = {**params["Dense_2"], "bias": bias + shift}
        sure = state.replace(
            discriminator=state.discriminator.replace(params=params), aux={"ada": jnp.float32(0.5)}
        )
        assert float(gans.update(gan, sure, batch)[0].aux["ada"]) == pytest.approx(0.5 + change)


def test_at_probability_0_augmentations_change_no_bit(make_config):
    _, gan, state = adaptive(make_config)
    batch = make_batch(gan)
    augmented, _ = gans.update(gan, state, batch)
    plain, _ = gans.update(dataclasses.replace(gan, d_augmentations=()), state, batch)
    assert_equal(augmented.discriminator.params, plain.discriminator.params)
    assert_equal(augmented.generator.params, plain.generator.params)
    sure, _ = gans.update(gan, state.replace(aux={"ada": jnp.float32(1)}), batch)
    kernels = (s.discriminator.params["Dense_0"]["kernel"] for s in (sure, plain))
    assert (next(kernels) != next(kernels)).any()


def test_a_penalty_sees_an_image_in_the_losses_own_transform(make_config, monkeypatch):
    def difference(seen):
        real = seen.look_at_real(seen.real) - seen.real_logits
        return jnp.abs(real) + jnp.abs(seen.look_at_fake(seen.fake) - seen.fake_logits)

    monkeypatch.setitem(PENALTIES, "r1", difference)
    changes = {"d_augment.translation": 1.0, "penalties.r1": 1.0}
    _, gan, state = small(make_config, "mescheder", **changes)
    assert float(gans.update(gan, state, make_batch(gan))[1]["r1"]) < 1e-6


def test_lecams_averages_move_once_an_update_of_d(make_config):
    _, gan, state = small(make_config, "mescheder", d_steps=2, **{"penalties.lecam": 0.1})
    after, metrics = gans.update(gan, state, make_batch(gan))
    assert float(metrics["lecam"]) > 0
    one = dataclasses.replace(gan, d_steps=1)
    batch = make_batch(gan)
    first, first_metrics = gans.update(one, state, {"images": batch["images"][:2]})
    for kind in ("real", "fake"):
        moved = first.aux["lecam"][kind]
        mean = float(first_metrics[f"d_{kind}_logit"])
        assert float(moved) == pytest.approx(0.01 * mean, rel=1e-4)
        last = float(metrics[f"d_{kind}_logit"])
        assert float(after.aux["lecam"][kind]) != pytest.approx(0.01 * last, rel=1e-3)


CONDITIONS = [
    ("mlp", "mlp", "concat"),
    ("mlp", "mlp", "projection"),
    ("mlp", "mlp", "acgan"),
    ("dcgan", "dcgan", "acgan"),
]


def conditional(make_config, generator, discriminator, condition, **changes):
    changes |= {"conditional": True, "generator.name": generator}
    changes |= {"discriminator.name": discriminator, "discriminator.condition": condition}
    return small(make_config, **changes)


def labelled(gan, seed=0):
    sizes = gans.batch_shape(gan)
    labels = jax.random.randint(jax.random.key(seed + 100), sizes, 0, gan.num_classes)
    return {**make_batch(gan, seed), "labels": labels}


@pytest.mark.parametrize("networks", CONDITIONS)
def test_labels_reach_both_players(make_config, networks):
    _, gan, state = conditional(make_config, *networks)
    assert gan.num_classes == 10
    batch = labelled(gan)
    assert jax.tree.map(jnp.shape, batch) == jax.tree.map(
        lambda x: x.shape, dict(gans.abstract_batch(gan))
    )
    after, metrics = gans.update(gan, state, batch)
    assert all(np.isfinite(value) for value in metrics.values())
    assert ("d_class_loss" in metrics) == ("g_class_loss" in metrics) == (networks[2] == "acgan")
    for i, player in enumerate(("discriminator", "generator")):
        changed = batch["labels"].at[i].set((batch["labels"][i] + 1) % 10)
        other, _ = gans.update(gan, state, {**batch, "labels": changed})
        kernels = [jax.tree.leaves(getattr(s, player).params)[-1] for s in (after, other)]
        assert (kernels[0] != kernels[1]).any()


def test_the_auxiliary_classifiers_loss_is_the_cross_entropy(make_config):
    """Of real and fake images for D; with a head that says nothing it is log 10 each."""
    _, gan, state = conditional(make_config, *CONDITIONS[2])
    batch = labelled(gan)
    _, metrics = gans.update(gan, state, batch)
    params = jax.tree.map(jnp.zeros_like, state.discriminator.params)
    silent = state.replace(discriminator=state.discriminator.replace(params=params))
    rates = jax.tree.map(jnp.zeros_like, silent.hparams)
    silent = silent.replace(hparams=rates)
    _, nothing = gans.update(gan, silent, batch)
    assert float(nothing["d_class_loss"]) == pytest.approx(2 * np.log(10), rel=1e-6)
    assert float(nothing["g_class_loss"]) == pytest.approx(np.log(10), rel=1e-6)
    assert float(metrics["d_class_loss"]) != pytest.approx(2 * np.log(10), rel=1e-3)


def test_micro_batches_keep_labels_and_keys_with_their_images(make_config):
    changes = {"d_augment.translation": 1.0, "penalties.r1": 1.0, "penalties.bcr": 1.0}
    _, whole, state = conditional(make_config, *CONDITIONS[1], **changes)
    batch = labelled(whole)
    expected, metrics = gans.update(whole, state, batch)
    split = dataclasses.replace(whole, accumulate=4)
    sizes = gans.batch_shape(split)
    parts = {name: x.reshape(*sizes, *x.shape[3:]) for name, x in batch.items()}
    after, split_metrics = gans.update(split, state, parts)
    assert_close(split_metrics, metrics, rtol=1e-5)
    assert_same_descent(state, after, expected, rtol=1e-5)


def test_class_rows(make_config):
    _, gan, _ = conditional(make_config, *CONDITIONS[0])
    labels = gans.class_rows(gan, 12, 2)
    np.testing.assert_array_equal(labels, [c % 10 for c in range(12) for _ in range(2)])
    assert gans.class_rows(dataclasses.replace(gan, num_classes=0), 12, 2) is None


def test_truncated_latents_are_of_the_normal_within_the_bound(make_config):
    _, gan, _ = small(make_config)
    latents = np.asarray(gans.draw_latents(gan, jax.random.key(0), 400, truncation=0.7))
    assert latents.shape == (400, 100)
    assert np.abs(latents).max() <= 0.7
    # The variance of a normal within +-c is 1 - 2 c pdf(c) / (cdf(c) - cdf(-c)).
    pdf, inside = np.exp(-(0.7**2) / 2) / np.sqrt(2 * np.pi), 0.516073
    assert latents.var() == pytest.approx(1 - 2 * 0.7 * pdf / inside, rel=0.02)


def test_standing_statistics_are_the_means_over_batches_of_samples(make_config):
    _, gan, state = small(make_config, "dcgan", standing_statistics=3)
    key = jax.random.key(7)
    network = gans.standing_statistics(gan, state.average, key)
    assert_equal(network.params, state.average.params)
    means = []
    for i in range(3):
        latents = gans.draw_latents(gan, jax.random.split(jax.random.fold_in(key, i))[0], 8)
        kernel = state.average.params["Dense_0"]["kernel"]
        hidden = np.asarray(latents @ kernel).reshape(8, 4, 4, -1)
        means.append((hidden.mean((0, 1, 2)), hidden.var((0, 1, 2))))
    first = network.variables["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(first["mean"], np.mean([m for m, _ in means], 0), atol=1e-5)
    np.testing.assert_allclose(first["var"], np.mean([v for _, v in means], 0), rtol=1e-3)
    assert 0 < MOMENTUM < 1
    off = dataclasses.replace(gan, standing_batches=0)
    assert_equal(gans.standing_statistics(off, state.average, key), state.average)

"""What a config may not say. tests/test_train.py has the same mistakes as commands."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from absl import app

import checks
import cli
import gan as gans
import scores
from augment import AUGMENTATIONS
from data import Dataset
from models import GENERATORS
from penalties import PENALTIES

IMAGES = Dataset(np.random.default_rng(0).integers(256, size=(100, 28, 28, 1), dtype=np.uint8))
POINTS = Dataset(
    np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32), np.zeros(100, np.int32), 1
)


@pytest.fixture
def check(make_config):
    def check(recipe: str = "goodfellow", dataset: Dataset = IMAGES, **changes):
        config = make_config(f"configs/mnist.py:{recipe}", {"batch_size": 8} | changes)
        checks.check_values(config)
        checks.check_labels(config, dataset)
        gan = gans.make_gan(config, dataset.spec)
        checks.check_fit(config, gan, dataset)
        checks.check_metrics(config, gan, scores.Judge(dataset, None, (), None, 100))
        return gan

    return check


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": "hinge2"}, "loss='hinge2' does not exist: choose from minimax, non_saturating"),
        ({"generator.name": "x"}, f"generator.name='x' does not exist: choose from {', '.join(GENERATORS)}"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"accumulate": 3}, "accumulate=3 does not divide batch_size=8"),
        ({"d_steps": 0}, "d_steps must be at least 1"),
        ({"update_rule": "both"}, "update_rule='both' does not exist: choose from alternating"),
        ({"update_rule": "extragradient", "d_steps": 2}, "is for one update each, and d_steps=2"),
        ({"optimizer.generator.learning_rate": -1.0}, "learning_rate must be more than 0, in float32 too, not -1.0"),
        ({"optimizer.generator.learning_rate": float("nan")}, "must be more than 0, in float32 too, not nan"),
        ({"optimizer.generator.learning_rate": float("inf")}, "must be more than 0, in float32 too, not inf"),
        ({"optimizer.generator.b1": 1.0}, r"generator.b1 must be in \[0, 1\), in float32 too, not 1.0"),
        ({"penalties.r1": -0.1}, r"penalties.r1 must be 0 \(off\) or a positive float32, not -0.1"),
        ({"penalties.r1": float("inf")}, r"penalties.r1 must be 0 \(off\) or a positive float32, not inf"),
        ({"ema_half_life": float("nan")}, r"ema_half_life must be 0 \(off\) or a positive float32, not nan"),
        ({"augment.flip": 1.5}, "augment.flip is at most 1"),
        ({"augment.crop": 28}, "augment.crop=28 must be less than the images' 28 pixels"),
        ({"generator.width": 0}, "generator.width must be at least 1"),
        ({"precision": "float8"}, "precision='float8' does not exist: choose from float32, bfloat16"),
        ({"balanced": True}, "balanced: mnist has no labels"),
        ({"batch_size": 101}, "batch_size=101 is larger than mnist: 100 examples"),
        ({"target.metric": "train/d_loss", "log_every": 0}, "never logged: log_every is 0"),
        ({"target.metric": "eval/fid"}, "'eval/fid' is never logged: there are train/d_accuracy"),
        ({"best_metric": "train/d_loss"}, "best_metric='train/d_loss' is never logged: there are eval/"),
        ({"target.metric": "train/r1"}, "'train/r1' is never logged: there are train/d_accuracy"),
    ],
)  # fmt: skip
def test_it_is_one_line_that_says_what_would_be_right(check, change, words):
    with pytest.raises(app.UsageError, match=words) as error:
        check(**change)
    assert "\n" not in str(error.value)


def test_what_may_be(check):
    check()
    check("dcgan")
    check("mescheder", dataset=POINTS, balanced=True)
    check(**{"penalties.r1": 1.0, "target.metric": "train/r1"})


def test_a_gradient_penalty_through_batch_normalisation_is_refused(check):
    with pytest.raises(app.UsageError, match=r"r1 .* --config.discriminator.norm=none"):
        check("dcgan", **{"penalties.r1": 1.0})
    gan = check("dcgan", **{"penalties.r1": 1.0, "discriminator.norm": "none"})
    assert gan.penalties == ("r1",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"penalties.gp": 1.0}, "contradict each other: r1 draws D's gradient to 0, gp .* to 1"),
        ({"penalties.dragan": 1.0, "penalties.r1": 0.0, "penalties.r2_end": 1.0, "decay_images": 9},
         "r2 draws D's gradient to 0, dragan"),
        ({"penalties.lecam": 1.0, "loss": "relativistic_paired"}, "lecam is of the logits themselves"),
        ({"loss": "wasserstein", "penalties.r1": 0.0}, "needs a bound on D: penalties.gp=10"),
        ({"loss": "wasserstein", "penalties.r1": 0.0, "penalties.bcr": 1.0}, "needs a bound on D"),
        ({"loss": "wasserstein", "ada_target": 0.6, "d_augment.color": 1.0}, "loss=wasserstein does not"),
        ({"ada_target": 0.6}, "no d_augment is on"),
        ({"packing": 3}, "packing=3 does not divide the 8 examples"),
        ({"packing": 2, "accumulate": 8}, "does not divide the 1 examples"),
        ({"packing": 0}, "packing must be at least 1"),
        ({"discriminator.minibatch_stddev": 3}, "minibatch_stddev=3 does not divide the 8 images"),
        ({"discriminator.minibatch_stddev": 3, "packing": 2}, "does not divide the 4 images or packs"),
        ({"discriminator.minibatch_stddev": -2}, "or more, not -2"),
        ({"packing": 2, "conditional": True}, "several labels together"),
        ({"d_augment.cutout": 1.5}, "d_augment.cutout is at most 1"),
        ({"d_augment_probability": -1.0}, "d_augment_probability must be 0"),
        ({"d_augment_probability_end": 2.0}, "d_augment_probability_end is at most 1"),
        ({"ada_target": 2.0, "d_augment.color": 1.0}, "ada_target is at most 1"),
        ({"ada_images": 0}, "ada_images must be at least 1"),
        ({"weight_clip": -0.01}, "weight_clip must be 0"),
        ({"penalties.r1_end": -1.0}, "penalties.r1_end must be 0"),
        ({"decay_images": -1}, "decay_images must be 0 or more"),
        ({"standing_statistics": 4}, "mlp has no batch normalisation"),
        ({"optimizer.generator.learning_rate_end": 0.0}, "learning_rate_end must be more than 0"),
        ({"optimizer.generator.b2_end": 1.0}, "b2_end must be in"),
        ({"optimizer.generator.momentum": 1.0}, "momentum must be in"),
        ({"optimizer.generator.momentum": -0.99999999}, "in float32 too, not -0.99999999"),
        ({"optimizer.discriminator.b2": 0.99999999}, "in float32 too, not 0.99999999"),
        ({"optimizer.discriminator.b1": 1e39}, "b1 must be in"),
        # R3GAN's D has no norm.
        ({"loss": "wasserstein", "penalties.r1": 0.0, "discriminator.name": "r3gan",
          "discriminator.norm": "spectral"}, "needs a bound on D"),
        ({"optimizer.generator.decay": 1.0}, "decay must be in"),
        ({"optimizer.discriminator.clip_norm": -1.0}, "clip_norm must be 0"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(check, change, words):
    with pytest.raises(app.UsageError, match=words) as error:
        check("mescheder", **change)
    assert "\n" not in str(error.value)


def labelled(dataset):
    labels = np.zeros(len(dataset.images), np.int32)
    return dataset._replace(labels=labels, num_classes=10)


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "wasserstein", "penalties.r1": 0.0, "weight_clip": 0.01},
        {"loss": "wasserstein", "penalties.r1": 0.0, "penalties.gp": 10.0},
        {"loss": "wasserstein", "penalties.r1": 0.0, "discriminator.norm": "spectral"},
        # whose default is spectral
        {
            "loss": "wasserstein",
            "penalties.r1": 0.0,
            "generator.name": "resnet",
            "discriminator.name": "resnet",
            "discriminator.norm": None,
        },
        {
            "best_metric": "eval/mode_kl",
            "eval_every": 0,
        },  # a page's, which an override makes useless
        # of a schedule that is off
        {"penalties.gp_end": 1.0, "decay_images": 0},
        {
            "loss": "wasserstein",
            "penalties.r1": 0.0,
            "penalties.lecam": 0.1,
        },  # it bounds the logits
        {"penalties.r2": 1.0, "penalties.bcr": 1.0, "penalties.lecam": 1.0, "packing": 4},
        {"ada_target": 0.6, "d_augment.geometric": 1.0, "conditional": True},
    ],
)
def test_what_fits_together(check, change):
    check("mescheder", dataset=labelled(IMAGES), **change)


def test_a_network_that_takes_no_labels(check, monkeypatch):
    class Plain(nn.Module):
        shape: tuple[int, ...]
        dtype: Any = jnp.float32

        @nn.compact
        def __call__(self, latents, labels=None, train=False):
            return jnp.tanh(nn.Dense(28 * 28)(latents)).reshape(-1, 28, 28, 1)

    monkeypatch.setitem(GENERATORS, "plain", Plain)
    check(**{"generator.name": "plain"})
    with pytest.raises(app.UsageError, match="conditional: the generator plain takes no labels"):
        check(dataset=labelled(IMAGES), conditional=True, **{"generator.name": "plain"})


@pytest.mark.parametrize("name", ["dcgan", "resnet", "r3gan"])
def test_minibatch_deviations_in_training(check, name):
    """Groups of 4 of 8 images, of 2 of 4 in packs, and a batch that is smaller than a group."""
    networks = {"generator.name": name, "discriminator.name": name}
    for group, packing in ((4, 1), (2, 2), (100, 1)):
        check(**networks, **{"discriminator.minibatch_stddev": group, "packing": packing})


def test_labels_and_images_are_needed_where_they_are_looked_at(check):
    for field in ("conditional", "balanced"):
        with pytest.raises(app.UsageError, match=f"{field}: .* has no labels"):
            check("mescheder", dataset=IMAGES._replace(labels=None), **{field: True})
    for field in ("d_augment.color", "penalties.bcr"):
        with pytest.raises(app.UsageError, match="is for images"):
            check("mescheder", dataset=POINTS, **{field: 1.0})


def test_a_forks_network_may_have_fields_that_are_no_sizes(make_config, monkeypatch):
    class Mine(nn.Module):
        shape: tuple[int, ...]
        use_bias: bool = True
        extra: int = 0
        size: int = 3
        more: int | None = None
        dtype: Any = None

        @nn.compact
        def __call__(self, latents, labels, train):
            return nn.Dense(self.shape[0], self.use_bias)(latents)

    monkeypatch.setitem(GENERATORS, "mine", Mine)
    changes = {"generator.name": "mine", "generator.use_bias": False, "generator.extra": 0}
    changes |= {"generator.more": 2}
    config = make_config("configs/ring.py:goodfellow", changes)
    checks.check_values(config)
    generator = gans.make_gan(config, POINTS.spec).generator
    assert (generator.use_bias, generator.extra, generator.size) == (False, 0, 3)
    assert generator.more == 2
    config.generator.size = 0
    with pytest.raises(app.UsageError, match="generator.size must be at least 1, not 0"):
        checks.check_values(config)


def test_a_forks_penalty_or_augmentation_is_a_field(make_config, monkeypatch):
    monkeypatch.setitem(PENALTIES, "mine", lambda seen: seen.fake_logits)
    monkeypatch.setitem(AUGMENTATIONS, "noise", lambda key, images, strength: images)
    config = make_config(changes={"penalties.mine": 0.5, "augment.noise": 0.25})
    checks.check_values(config)
    gan = gans.make_gan(config, IMAGES.spec)
    assert gan.penalties == ("mine", "r1")
    assert gan.augmentations == (("noise", 0.25),)


def test_what_is_for_images_is_refused_for_points(check):
    with pytest.raises(app.UsageError, match="augment is for images"):
        check(dataset=POINTS, **{"augment.flip": 0.5})
    with pytest.raises(app.UsageError, match="convolutions make images"):
        check("dcgan", dataset=POINTS)


def test_fields_that_do_nothing(make_config):
    config = make_config("configs/mnist.py:goodfellow")
    unused = set(checks.unused_fields(config))
    fields = {"recipe", "lazy_every", "target.value", "inception_weights"}
    fields |= {"d_augment_probability", "ada_images", "max_rollbacks", "shard_state"}
    fields |= {field for field in cli.field_types(config) if field.endswith("_end")}
    for player in ("generator", "discriminator"):
        numbers = ("b1", "b2", "momentum", "decay")
        fields |= {f"optimizer.{player}.{number}" for number in numbers}
    in_networks = {field for field in unused if field.split(".")[0] in checks.PLAYERS}
    assert unused - in_networks == fields
    assert {"discriminator.minibatch_stddev", "discriminator.condition"} <= in_networks
    assert not {"generator.width", "discriminator.depth"} & in_networks
    changes = {"decay_images": 100, "penalties.r1_end": 1.0, "conditional": True, "ada_target": 0.5}
    changes |= {"d_augment.color": 1.0, "discriminator.name": "dcgan"}
    config.update_from_flattened_dict(changes)
    unused = checks.unused_fields(config)
    used = {
        "decay_images",
        "penalties.r1_end",
        "lazy_every",
        "ada_images",
        "discriminator.condition",
    }
    assert not used & set(unused)
    assert "optimizer.generator.b2_end" in unused  # of sgd, which has no b2
    assert unused["d_augment_probability"] == "ada_target controls it"
    unused = checks.unused_fields(make_config("configs/ring.py:mescheder"))
    assert {"resolution", "data_dir"} <= set(unused)
    assert not {"lazy_every", "optimizer.generator.b1"} & set(unused)

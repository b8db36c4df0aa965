"""What a config may not say. tests/test_train.py has the same mistakes as commands."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import numpy as np
import pytest
from absl import app

import checks
import gan as gans
import scores
from augment import AUGMENTATIONS
from data import Dataset
from models import GENERATORS
from penalties import PENALTIES

IMAGES = Dataset(np.zeros((100, 28, 28, 1), np.uint8))
POINTS = Dataset(np.zeros((100, 2), np.float32), np.zeros(100, np.int32), 1)


@pytest.fixture
def check(make_config):
    def check(recipe: str = "goodfellow", dataset: Dataset = IMAGES, **changes):
        config = make_config(f"configs/mnist.py:{recipe}", {"batch_size": 8} | changes)
        checks.check_values(config)
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
        ({"optimizer.generator.learning_rate": -1.0}, "learning_rate must be more than 0, in float32 too, not -1.0"),
        ({"optimizer.generator.learning_rate": float("nan")}, "must be more than 0, in float32 too, not nan"),
        ({"optimizer.generator.learning_rate": float("inf")}, "must be more than 0, in float32 too, not inf"),
        ({"optimizer.generator.b1": 1.0}, r"optimizer.generator.b1 must be in \[0, 1\), not 1.0"),
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
        ({"best_metric": "eval/relative_deviation_pixels", "eval_every": 0}, "never logged: eval_every is 0"),
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


def test_a_forks_network_may_have_fields_that_are_no_sizes(make_config, monkeypatch):
    class Mine(nn.Module):
        shape: tuple[int, ...]
        use_bias: bool = True
        extra: int = 0
        size: int = 3
        dtype: Any = None

        @nn.compact
        def __call__(self, latents, train):
            return nn.Dense(self.shape[0], self.use_bias)(latents)

    monkeypatch.setitem(GENERATORS, "mine", Mine)
    changes = {"generator.name": "mine", "generator.use_bias": False, "generator.extra": 0}
    config = make_config("configs/ring.py:goodfellow", changes)
    checks.check_values(config)
    generator = gans.make_gan(config, POINTS.spec).generator
    assert (generator.use_bias, generator.extra, generator.size) == (False, 0, 3)
    config.generator.size = 0
    with pytest.raises(app.UsageError, match="generator.size must be at least 1, not 0"):
        checks.check_values(config)


def test_a_forks_penalty_or_augmentation_is_a_field(make_config, monkeypatch):
    monkeypatch.setitem(PENALTIES, "mine", lambda discriminate, real, fake: discriminate(fake))
    monkeypatch.setitem(AUGMENTATIONS, "noise", lambda key, images, strength: images)
    config = make_config(changes={"penalties.mine": 0.5, "augment.noise": 0.25})
    checks.check_values(config)
    gan = gans.make_gan(config, IMAGES.spec)
    assert gan.penalties == ("mine", "r1")
    assert gan.augmentations == (("noise", 0.25),)


def test_what_is_for_images_is_refused_for_points(check):
    with pytest.raises(app.UsageError, match="augment is for images"):
        check(dataset=POINTS, **{"augment.flip": 0.5})
    with pytest.raises(app.UsageError, match="dcgan makes images"):
        check("dcgan", dataset=POINTS)


def test_fields_that_do_nothing(make_config):
    unused = checks.unused_fields(make_config("configs/mnist.py:goodfellow"))
    fields = {"recipe", "discriminator.norm", "lazy_every", "target.value", "inception_weights"}
    fields |= {f"optimizer.{p}.{b}" for p in ("generator", "discriminator") for b in ("b1", "b2")}
    assert set(unused) == fields
    unused = checks.unused_fields(make_config("configs/ring.py:mescheder"))
    assert {"resolution", "data_dir"} <= set(unused)
    assert not {"lazy_every", "optimizer.generator.b1"} & set(unused)

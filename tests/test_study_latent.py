"""studies/latent.py: what is measured, by hand, and the study in a short form."""

import csv
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import import_script, run_study
from PIL import Image

import features
import gan as gans
from data import Spec

pytestmark = pytest.mark.slow

latent = import_script("latent")


def test_statistics_of_bars():
    """One image each: a long bar, and the same sheared."""
    bar = np.zeros((1, 64, 64))
    bar[0, 2:62, 20:26] = 1  # 60 long, 6 wide
    assert latent.ink(bar) == pytest.approx(360 / 4096)
    assert latent.thickness(bar) == pytest.approx(360 / (2 * 60 + 2 * 6))  # about half its width
    assert latent.height(bar) == pytest.approx(np.sqrt((60**2 - 1) / 12))
    assert latent.width(bar) == pytest.approx(np.sqrt((6**2 - 1) / 12))
    assert latent.slant(bar) == pytest.approx(0, abs=1e-9)
    leaning = np.zeros((1, 64, 64))
    for up in range(60):
        leaning[0, 61 - up, 2 + up // 2 : 8 + up // 2] = 1
    assert latent.slant(leaning) == pytest.approx(0.5, abs=0.01)
    assert latent.slant(leaning[:, :, ::-1]) == pytest.approx(-0.5, abs=0.01)


class Brightness(nn.Module):
    """The first number of a latent is the brightness of all pixels; the others are nothing."""

    shape: ClassVar = (8, 8, 1)

    @nn.compact
    def __call__(self, latents, labels, train):
        return jnp.broadcast_to(0.2 * latents[:, 0, None, None, None], (latents.shape[0], 8, 8, 1))


def test_a_direction_changes_what_it_moves(make_config, monkeypatch):
    monkeypatch.setattr(latent, "SAMPLES", 200)
    gan = gans.make_gan(make_config(), Spec((8, 8, 1), 10))
    gan = gan.__class__(**{**vars(gan), "generator": Brightness(), "latent_dim": 3})
    look = features.classifier("digits", (8, 8, 1))
    real = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    found = {"SeFa": np.eye(3, dtype=np.float32)[:2]}
    along, aside = latent.measure(gan, gans.Network({}, {}), found, look, real, jax.random.key(0))
    usual = (real.mean(axis=(1, 2, 3)) / 255).std()
    assert along.changes["ink"] == pytest.approx(2 * 0.2 / 2 / usual, rel=0.02)  # of [-1, 1]
    assert aside.flips == 0
    assert set(aside.changes.values()) == {0.0}


def test_it_writes_figures_and_tables(tmp_path):
    words = ["--page=configs/digits.py", "--num_steps=30", "--seeds=1", f"--out={tmp_path}"]
    result = run_study("latent", *words, f"--runs={tmp_path / 'runs'}")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "latent.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["SeFa"] * 5 + ["GANSpace"] * 5 + ["random"] * 5 + [""]
    last = rows[-1]
    assert (
        0 < float(last["inversion_of_test_images"]) < float(last["nearest_random_of_test_images"])
    )
    assert Image.open(tmp_path / "latent.gif").n_frames == latent.FRAMES
    for name in ("latent", "latent_directions"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert (tmp_path / "latent.md").read_text().count("\n| GANSpace | ") == 1

"""The networks that metrics look through: accurate, whole, downloaded once, refused if damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from absl import app
from PIL import Image

import data
import features
import inception
import scores


@pytest.mark.parametrize("dataset", features.read_index())
def test_classifiers_are_as_the_index_says(dataset):
    """Small, whole, and accurate enough to be looked through."""
    entry = features.read_index()[dataset]
    least = {"digits": 0.97, "mnist": 0.993, "fashion_mnist": 0.92, "cifar10": 0.85}[dataset]
    assert entry["test_accuracy"] >= least
    assert (features.WEIGHTS / f"{dataset}.safetensors").stat().st_size < 1_000_000
    view = features.classifier(dataset, tuple(entry["shape"]))
    values, logits = features.compute(view, np.zeros((3, *entry["shape"]), np.uint8))
    assert values.shape == (3, entry["widths"][-1])
    assert logits.shape == (3, 10)


def test_the_accuracy_of_digits_is_measured(make_config):
    held_out = data.load_held_out(make_config())
    _, logits = features.compute(features.classifier("digits", (8, 8, 1)), held_out.images)
    accuracy = np.mean(logits.argmax(axis=1) == held_out.labels)
    assert accuracy == pytest.approx(features.read_index()["digits"]["test_accuracy"], abs=0.005)


def test_stacked_digits_are_told_channel_by_channel():
    one = features.classifier("mnist", (28, 28, 1))
    three = features.classifier("stacked_mnist", (28, 28, 3))
    assert three.fingerprint != one.fingerprint
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 3), np.uint8)
    images[:10] //= 8  # of several classes
    values, logits = features.compute(three, images)
    parts = [features.compute(one, images[..., channel, None]) for channel in range(3)]
    np.testing.assert_allclose(values, np.concatenate([x for x, _ in parts], 1), rtol=1e-5)
    digits = np.stack([x.argmax(1) for _, x in parts])
    assert len(np.unique(digits)) > 1
    np.testing.assert_array_equal(logits.argmax(1), [100, 10, 1] @ digits)


def test_damaged_weights_are_refused(monkeypatch, tmp_path):
    (tmp_path / "index.json").write_text((features.WEIGHTS / "index.json").read_text())
    content = bytearray((features.WEIGHTS / "digits.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "digits.safetensors").write_bytes(content)
    monkeypatch.setattr(features, "WEIGHTS", tmp_path)
    with pytest.raises(app.UsageError, match="sha256"):
        features.classifier("digits", (8, 8, 1))


# Inception, with random weights in the published format, from a server on the loopback address


@pytest.fixture
def published(monkeypatch, tmp_path, serve_folder):
    """The folder of a server that has a file of weights, which is the published one."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    tensors = {}
    for key, shape in inception.torch_shapes().items():
        size = np.prod(shape[1:]) if len(shape) > 1 else 1
        values = rng.standard_normal(shape, np.float32) * np.sqrt(2 / size)
        tensors[key] = torch.from_numpy(abs(values) + 0.5 if key.endswith("var") else values)
    (tmp_path / "www").mkdir()
    file = tmp_path / "www/weights.pth"
    torch.save(tensors, file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "INCEPTION_FILE", file.name)
    monkeypatch.setattr(features, "INCEPTION_URL", serve_folder(file.parent) + file.name)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256", sha256)
    monkeypatch.setattr(features, "BATCH_SIZE", 10)
    return file


@pytest.mark.slow
def test_inception_is_downloaded_once(published):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    first, _ = features.compute(features.inception("digits", (8, 8, 1)), images)
    assert np.isfinite(first).all()
    published.rename(published.with_name("by_hand.pth"))
    again, _ = features.compute(features.inception("digits", (8, 8, 1)), images)
    np.testing.assert_array_equal(again, first)
    by_hand = str(published.with_name("by_hand.pth"))
    again, _ = features.compute(features.inception("digits", (8, 8, 1), by_hand), images)
    np.testing.assert_array_equal(again, first)


def test_a_download_of_something_else_is_refused_and_not_kept(published):
    published.write_bytes(b"<html>")
    with pytest.raises(app.UsageError, match=r"\(what came is not .*\): fetch http.* put it at"):
        features.inception("digits", (8, 8, 1))
    assert list(data.cache_folder().iterdir()) == []


def test_what_to_fetch_and_where_to_put_it_is_said(published, command, tmp_path):
    published.unlink()
    arguments = ["--config=configs/digits.py", "--config.eval_features=inception"]
    outcome = command("train.py", *arguments, f"--workdir={tmp_path / 'run'}")
    assert outcome.code == 2
    assert outcome.compilations == 0
    assert f"fetch {features.INCEPTION_URL} and put it at {data.cache_folder()}" in outcome.err
    assert not (tmp_path / "run").exists()
    outcome = command("train.py", *arguments, f"--config.inception_weights={tmp_path}/none.pth")
    assert outcome.code == 2
    assert "none.pth: No such file" in outcome.err


@pytest.mark.slow
def test_a_run_has_fid(published, command, tmp_path):
    """In training and afterwards, and by a metric of it the best is kept."""
    (tmp_path / "images").mkdir()
    for i, image in enumerate(data.digits(None).images[:20]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"images/{i:02}.png")
    outcome = command(
        "train.py", "--config=configs/digits.py:goodfellow", f"--workdir={tmp_path / 'run'}",
        f"--config.dataset=folder:{tmp_path / 'images'}", "--config.num_steps=2",
        "--config.eval_every=2", "--config.eval_samples=20", "--config.batch_size=10",
        "--config.eval_features=inception", "--config.best_metric=eval/kid",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    outcome = command("evaluate.py", f"--workdir={tmp_path / 'run'}", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out.splitlines()[-1])
    for name in ("fid", "kid", "inception_score", "precision_inception", "coverage_inception"):
        assert found[f"eval/{name}"] == last[f"eval/{name}"]


def test_names_tell_the_resizing(published, make_config):
    config = make_config(changes={"eval_features": "classifier, inception,inception_clean_fid"})
    judge = scores.make_judge(config, data.load(config))
    assert {
        "eval/fd_classifier", "eval/fid", "eval/kid", "eval/inception_score",
        "eval/recall_inception", "eval/fd_inception_clean_fid", "eval/kd_inception_clean_fid",
        "eval/inception_score_inception_clean_fid", "eval/density_inception_clean_fid",
    } <= set(scores.metric_names(judge))  # fmt: skip
    assert scores.best_metric(scores.metric_names(judge)) == "eval/fid"


@pytest.mark.slow
def test_fid_of_real_images_has_a_floor(published, make_config):
    config = make_config(changes={"eval_features": "inception"})
    dataset = data.Dataset(data.load(config).images[:20])
    judge = scores.make_judge(config, dataset)
    held_out = data.Dataset(judge.held_out.images[:20])
    judge = dataclasses.replace(judge, held_out=held_out, num_samples=20)
    found = scores.with_floor(judge, held_out.images)
    assert found["eval/fid"] == found["eval/floor_fid"]
    assert found["eval/inception_score"] >= 1

"""Pictures out of a run: `python sample.py`."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import cli
import data
import pictures
import sample


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def train(command, workdir):
    def train(*changes, config="configs/digits.py:mescheder", code=0):
        words = [f"--config={config}", f"--workdir={workdir}", "--config.num_steps=2"]
        words += ["--config.batch_size=16", "--config.eval_every=0", *changes]
        result = command("train.py", *words)
        assert result.code == code, result.err

    return train


def size(rows, columns, tile=58, gap=2):
    return columns * tile + gap, rows * tile + gap


def test_a_class_a_row(command, train, workdir):
    train("--config.conditional=True", "--config.checkpoint_every=1")
    result = command("sample.py", f"--workdir={workdir}", "--columns=3")
    assert result.code == 0, result.err
    assert result.out.strip() == str(workdir / "samples.png")
    assert result.compilations > 0
    picture = Image.open(workdir / "samples.png").convert("RGB")
    bare = size(10, 3)
    assert bare[0] < picture.width < bare[0] + 200  # labels at the left, a title above

    out = workdir / "other.png"
    words = [f"--workdir={workdir}", f"--out={out}", "--columns=3", "--rows=2"]

    def pixels(*more):
        assert command("sample.py", *words, *more).code == 0
        return np.asarray(Image.open(out))

    same = pixels()
    assert same.shape[0] < picture.height / 3
    np.testing.assert_array_equal(pixels(), same)
    for change in ("--seed=1", "--step=1", "--truncation=0.1", "--classes=5,7"):
        assert (pixels(change) != same).any(), change
    for mistake, message in (
        ("--step=7", "--step=7 has no checkpoint: there are 1, 2"),
        ("--classes=1,10", "'10' is no class: they are 0 to 9"),
        ("--classes=-1", "'-1' is no class"),
    ):
        result = command("sample.py", *words, mistake)
        assert (result.code, result.compilations) == (2, 0)
        assert message in result.err
    for more, message in (
        (("--mode=directions", "--classes=1,2"), "directions are shown of one class"),
        (("--mode=export", "--seed=1"), "--seed changes nothing in --mode=export without standing"),
    ):
        result = command("sample.py", f"--workdir={workdir}", *more)
        assert (result.code, result.compilations) == (2, 0)
        assert message in result.err


def frames(path):
    with Image.open(path) as picture:
        for i in range(picture.n_frames):
            picture.seek(i)
            yield np.asarray(picture.convert("RGB")).astype(int)


def test_moving_pictures(command, train, workdir, tmp_path):
    """A walk ends where it began; a timeline shows the pictures that are there; strips."""
    train("--config.num_steps=4", "--config.sample_every=1")
    result = command("sample.py", f"--workdir={workdir}", "--mode=walk", "--rows=1", "--columns=2")
    assert (result.code, result.out.strip()) == (0, str(workdir / "walk.gif")), result.err
    walk = list(frames(workdir / "walk.gif"))
    assert len(walk) == sample.ANCHORS * sample.FRAMES_BETWEEN
    steps = [np.abs(a - b).mean() for a, b in zip(walk, [*walk[1:], walk[0]])]
    assert 0 < max(steps) < 0.5 * np.abs(walk[0] - walk[len(walk) // 2]).mean()

    out = tmp_path / "strip.png"
    words = [f"--workdir={workdir}", f"--out={out}", "--columns=3"]
    assert command("sample.py", *words, "--mode=walk", "--rows=2").code == 0
    strip = np.asarray(Image.open(out))[-2 * 60 :]
    starts = [180 - 60 * i for i in range(3)]
    first, _, last = (strip[:, strip.shape[1] - start :][:, :56] for start in starts)
    assert np.abs(first.astype(int) - last).max() <= 2  # rounding: cos of 2 pi

    result = command("sample.py", f"--workdir={workdir}", "--mode=timeline")
    assert (result.code, result.compilations) == (0, 0), result.err
    pictures = sorted((workdir / "samples").iterdir())
    shown = list(frames(workdir / "timeline.gif"))
    assert len(shown) == len(pictures) == 5
    for frame, picture in zip(shown, pictures):
        expected = np.asarray(Image.open(picture).convert("RGB")).astype(int)
        assert np.abs(frame[-len(expected) :, : expected.shape[1]] - expected).mean() < 2
    assert command("sample.py", *words, "--mode=timeline").code == 0
    width = Image.open(pictures[0]).width
    assert Image.open(out).width == 3 * width + 2 * 4

    result = command("sample.py", f"--workdir={workdir}", "--mode=timeline", "--columns=3")
    assert (result.code, "--columns is of a strip" in result.err) == (2, True)
    pictures[1].write_bytes(b"no picture")
    result = command("sample.py", f"--workdir={workdir}", "--mode=timeline")
    assert (result.code, "cannot be read" in result.err) == (2, True)
    shutil.rmtree(workdir / "samples")
    result = command("sample.py", f"--workdir={workdir}", "--mode=timeline")
    assert (result.code, "has no pictures in samples/" in result.err) == (2, True)


@pytest.mark.slow
def test_directions_inversion_and_neighbours(command, train, workdir):
    """A picture each; the generator's own images come nearer than held-out ones."""
    train("--config.num_steps=200", "--config.steps_per_call=50", "--config.latent_dim=8")
    for words in (["--mode=directions", "--rows=2", "--columns=3"], ["--mode=directions", "--pca"]):
        result = command("sample.py", f"--workdir={workdir}", *words)
        assert (result.code, result.out.strip()) == (0, str(workdir / "directions.png"))
    result = command("sample.py", f"--workdir={workdir}", "--mode=invert", "--columns=2")
    assert result.code == 0, result.err
    held_out, near, own, near_own = map(float, re.findall(r" (0\.\d+)$", result.out, re.MULTILINE))
    assert own < 0.3 * near_own
    assert own < held_out < near
    result = command("sample.py", f"--workdir={workdir}", "--mode=neighbours", "--rows=2")
    assert result.code == 0, result.err
    found = re.findall(r"^(\w+) +nearest training image: samples ([\d.]+), held-out images ([\d.]+) \(medians\)", result.out, re.MULTILINE)  # fmt: skip
    assert [name for name, *_ in found] == ["pixels", "classifier"]
    # Held-out images' distance by another way: root mean squares of all pairs.
    config = cli.load_config("configs/digits.py")
    real, others = (data.digits(config.resolution, x).images / 255 for x in (False, True))
    squares = [np.mean((real - image) ** 2, axis=(1, 2, 3)).min() for image in others]
    assert float(found[0][2]) == pytest.approx(np.median(np.sqrt(squares)), rel=1e-2)
    for name in ("directions", "invert", "neighbours"):
        assert Image.open(workdir / f"{name}.png").width > 200


def test_points_are_a_plot(command, train, tmp_path, workdir):
    train(config="configs/ring.py")
    result = command("sample.py", f"--workdir={workdir}", f"--out={tmp_path / 'ring.png'}")
    assert result.code == 0, result.err
    assert Image.open(tmp_path / "ring.png").size == (512, 512)
    assert command("sample.py", f"--workdir={workdir}", "--mode=timeline").code == 0
    assert Image.open(workdir / "timeline.gif").width == 512
    for mode in ("walk", "directions", "invert", "neighbours"):
        result = command("sample.py", f"--workdir={workdir}", f"--mode={mode}")
        assert (result.code, result.compilations) == (2, 0)
        assert f"--mode={mode} is of images, and ring has points" in result.err
    result = command("sample.py", f"--workdir={workdir}", "--classes=1")
    assert "this GAN of ring is given no labels" in result.err


def test_a_folder_of_images_holds_nothing_out(command, train, workdir, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for i in range(20):
        image = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
    train(f"--config.dataset=folder:{tmp_path / 'images'}")
    result = command("sample.py", f"--workdir={workdir}", "--mode=invert")
    assert (result.code, result.compilations) == (2, 0)
    assert "nothing is held out" in result.err
    result = command("sample.py", f"--workdir={workdir}", "--mode=neighbours", "--rows=2")
    assert result.code == 0, result.err
    assert "held-out" not in result.out
    dataset = data.folder(tmp_path / "images", None, stream=True)
    monkeypatch.setattr(data, "load", lambda config: dataset)
    there = command("sample.py", f"--workdir={workdir}", "--mode=neighbours", "--rows=2")
    assert there.out == result.out
    monkeypatch.setattr(data, "host_memory", lambda: 20 * 8 * 8 - 1)  # they do not fit
    result = command("sample.py", f"--workdir={workdir}", "--mode=neighbours", "--rows=2")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "at resolution=8 takes 0 GiB, and this machine has 0" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--workdir=DIR is missing"),
        (["--workdir=nowhere"], "nowhere"),
        (["--workdir=nowhere", "--rows=0"], "flag --rows=0: 0 is not a positive integer"),
        (["--workdir=nowhere", "--rows=101", "--columns=100"], "is at most 10,000 images"),
        (["--workdir=nowhere", "--seed=-1"], "flag --seed=-1: -1 is not an integer in the range"),
        (["--workdir=nowhere", "--seed=4294967296"], "is not an integer in the range"),
        (["--workdir=nowhere", "--truncation=nan"], "--truncation takes a number, not nan"),
        (["--workdir=nowhere", "--truncation=0"], "truncation"),
        (["--workdir=nowhere", "--out=nowhere/x.png"], "there is no folder nowhere"),
        (["--workdir=nowhere", "--mode=timeline"], "nowhere holds no run"),
        (["--workdir=nowhere", "--mode=export"], "nowhere holds no run"),
        (["--workdir=nowhere", "--mode=walk", "--out=x.jpg"], "writes .gif or .png"),
        (["--workdir=nowhere", "--mode=export", "--out=x.png"], "writes no picture"),
        (["--workdir=nowhere", "--mode=export", "--out=."], ".: no file can be written there"),
        (["--workdir=nowhere", "--out=x.txt"], "--mode=grid writes .png or"),
        (["--workdir=nowhere", "--mode=nothing"], "nothing"),
        (
            ["--workdir=nowhere", "--mode=timeline", "--seed=1"],
            "--seed changes nothing in --mode=timeline",
        ),
        (["--workdir=nowhere", "--pca"], "--pca changes nothing in --mode=grid"),
        (["--workdir=nowhere", "--mode=invert", "--truncation=1"], "--truncation changes nothing"),
    ],
)
def test_mistakes_are_one_line(command, words, message):
    result = command("sample.py", *words)
    assert result.code == 2
    assert message in result.err
    assert result.compilations == 0


@pytest.mark.parametrize("mode", [["directions"], ["directions", "--pca"], ["export"]])
def test_weights_that_are_not_finite_are_one_line(command, train, workdir, mode):
    train("--config.optimizer.generator.learning_rate=1e30", code=1)
    result = command(
        "sample.py", f"--workdir={workdir / 'not_finite'}", f"--mode={mode[0]}", *mode[1:]
    )
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "the generator's weights hold NaN or infinite numbers" in result.err


def test_an_out_that_cannot_be_written_is_one_line(command, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    result = command("sample.py", "--workdir=nowhere", f"--out={tmp_path / 'x.png'}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "x.png: no file can be written there" in result.err


@pytest.mark.parametrize("script", ["sample.py", "evaluate.py"])
def test_a_network_that_is_not_here(train, command, workdir, script):
    train()
    config = json.loads((workdir / "config.json").read_text())
    config["generator"]["name"] = "mine"
    (workdir / "config.json").write_text(json.dumps(config))
    result = command(script, f"--workdir={workdir}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "generator.name='mine' does not exist: choose from mlp" in result.err
    if script == "evaluate.py":
        assert command(script, f"--workdir={workdir}", "--num_samples=50").err == result.err


def test_a_grid_has_as_many_columns_as_asked():
    images = np.zeros((6, 28, 28, 1), np.uint8)
    assert pictures.draw_grid(images, 2).size == size(3, 2)
    assert pictures.draw_grid(images).size == size(2, 3)

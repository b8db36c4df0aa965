"""Pictures out of a run: `python sample.py`."""

import numpy as np
import pytest
from PIL import Image

import runs


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def train(command, workdir):
    def train(*changes, config="configs/digits.py:mescheder"):
        words = [f"--config={config}", f"--workdir={workdir}", "--config.num_steps=2"]
        words += ["--config.batch_size=16", "--config.eval_every=0", *changes]
        result = command("train.py", *words)
        assert result.code == 0, result.err

    return train


def size(rows, columns, tile=58, gap=2):
    return columns * tile + gap, rows * tile + gap


def test_a_class_a_row(command, train, workdir):
    train("--config.conditional=True", "--config.checkpoint_every=1")
    result = command("sample.py", f"--workdir={workdir}", "--columns=3")
    assert result.code == 0, result.err
    assert result.out.strip() == str(workdir / "samples.png")
    picture = Image.open(workdir / "samples.png")
    assert picture.size == size(10, 3)

    out = workdir / "other.png"
    words = [f"--workdir={workdir}", f"--out={out}", "--columns=3", "--rows=2"]

    def pixels(*more):
        assert command("sample.py", *words, *more).code == 0
        return np.asarray(Image.open(out))

    same = pixels()
    assert same.shape[::-1] == size(2, 3)
    np.testing.assert_array_equal(pixels(), same)
    for change in ("--seed=1", "--step=1", "--truncation=0.1"):
        assert (pixels(change) != same).any(), change
    result = command("sample.py", *words, "--step=7")
    assert result.code == 2
    assert "--step=7 has no checkpoint: there are 1, 2" in result.err


def test_points_are_a_plot(command, train, tmp_path, workdir):
    train(config="configs/ring.py")
    result = command("sample.py", f"--workdir={workdir}", f"--out={tmp_path / 'ring.png'}")
    assert result.code == 0, result.err
    assert Image.open(tmp_path / "ring.png").size == (512, 512)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--workdir=DIR is missing"),
        (["--workdir=nowhere"], "nowhere"),
        (["--workdir=nowhere", "--rows=0"], "--rows must be at least 1"),
        (["--workdir=nowhere", "--truncation=0"], "truncation"),
        (["--workdir=nowhere", "--out=nowhere/x.png"], "there is no folder nowhere"),
    ],
)
def test_mistakes_are_one_line(command, words, message):
    result = command("sample.py", *words)
    assert result.code == 2
    assert message in result.err
    assert result.compilations == 0


def test_a_grid_has_as_many_columns_as_asked():
    images = np.zeros((6, 28, 28, 1), np.uint8)
    assert runs.draw_grid(images, 2).size == size(3, 2)
    assert runs.draw_grid(images).size == size(2, 3)

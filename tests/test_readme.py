"""What the README says: its commands run, its fork works, its pictures and files are there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from conftest import ROOT, usual_flags
from PIL import Image

import checks
import cli
import gan as gans
import starts

README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python ")
]
FLAGS = re.findall(r"`(--config\.[^`]*)`", README)


def run(*words: str, cwd=ROOT) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(cwd)}
    if words[0] in ("evaluate.py", "sample.py"):  # which compute for longer than they compile
        environment["XLA_FLAGS"] = usual_flags
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """The folder of a short run."""
    workdir = tmp_path_factory.mktemp("digits") / "run"
    short = ["--config.num_steps=3", f"--workdir={workdir}"]
    result = run("train.py", "--config=configs/digits.py", *short)
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, tmp_path, request):
    if "mnist" in command:
        request.getfixturevalue("tfds_data")
    words = shlex.split(command)[1:]
    short = ["--config.num_steps=3", f"--workdir={tmp_path / 'run'}"]
    if words[0] in ("evaluate.py", "sample.py"):  # of a short run, or of a folder with some images
        shutil.copytree(request.getfixturevalue("digits_run"), tmp_path / "run")
        (tmp_path / "images").mkdir()
        for i in range(10):
            image = np.random.default_rng(i).integers(0, 256, (28, 28), np.uint8)
            Image.fromarray(image).save(tmp_path / f"images/{i}.png")
        words = [word.replace("FOLDER", str(tmp_path / "images")) for word in words]
    if words[0] in ("evaluate.py", "sample.py"):
        words = [word.replace("runs/demo", str(tmp_path / "run")) for word in words]
        words = [word.replace("samples.png", str(tmp_path / "samples.png")) for word in words]
    elif "--describe" not in words:
        words += short
    result = run(*words)
    assert result.returncode == 0, result.stderr


def test_there_are_commands():
    assert len(COMMANDS) >= 7
    assert len(FLAGS) >= 10


@pytest.mark.slow
def test_every_flag_is_accepted():
    """The remedies and data sets of the tables, on a config to which they apply."""
    page = "configs/digits.py:goodfellow"
    for flags in FLAGS:
        words = shlex.split(flags)
        if any("dataset=" in word or "data_dir" in word or "=yours" in word for word in words):
            continue
        if words == ["--config.loss=smoothed"]:
            continue  # the fork below
        config = cli.with_overrides(cli.load_config(page), words)
        changed = [word.removeprefix("--config.").partition("=")[0] for word in words]
        checks.check_use(config, cli.load_config(page), changed)
        _, gan, _ = starts.prepare(config)
        state = jax.eval_shape(partial(gans.init, gan, config), jax.random.key(0))
        jax.eval_shape(partial(gans.update, gan), state, gans.abstract_batch(gan))


MINE = {
    "models.py": """

class OfMine(MLPGenerator):
    leaves: int = 3


GENERATORS["of_mine"] = OfMine
""",
    "optimizers.py": """

def of_mine(learning_rate: float) -> optax.GradientTransformation:
    return optax.lion(learning_rate)


OPTIMIZERS["of_mine"] = of_mine
""",
}


@pytest.mark.slow
def test_the_fork(tmp_path):
    """The loss of the README, put into losses.py as it says, trains and passes the tests.

    So does what is written and named in its file alone: a generator, and an optimiser.
    """
    for path in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):
        shutil.copy(path, tmp_path)
    for name in ("configs", "tests", "weights"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (fork,) = re.findall(r"```python\n(def smoothed.*?)```", README, re.DOTALL)
    source = (ROOT / "losses.py").read_text()
    source = source.replace("LOSSES = {", f"{fork}\n\nLOSSES = {{")
    source = source.replace("        minimax,\n", "        minimax,\n        smoothed,\n")
    (tmp_path / "losses.py").write_text(source)
    for name, addition in MINE.items():
        with (tmp_path / name).open("a") as file:
            file.write(addition)
    tests = [f"tests/test_{name}.py" for name in ("losses", "models", "optimizers", "house")]
    chosen = "smoothed or of_mine or config_field"
    result = run("-m", "pytest", "-n0", "-vv", *tests, "-k", chosen, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    for name in ("smoothed", "generator_fits[shape0-of_mine", "traced[of_mine", "config_field"):
        assert name in result.stdout
    words = ["--config.loss=smoothed", "--config.num_steps=2", f"--workdir={tmp_path / 'run'}"]
    result = run("train.py", "--config=configs/digits.py", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_four_functions():
    """The README's Python, as it stands there."""
    (snippet,) = re.findall(r"```python\n(import jax\n.*?)```", README, re.DOTALL)
    shown = "print(images.shape, state.step, metrics['d_loss'])"
    result = run("-c", f"{snippet}{shown}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(16, 8, 8, 1) 3 ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_linked_or_named_is_there(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (document.parent / target).exists(), target
    for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|txt|cff|md))`", text):
        assert (ROOT / name).exists() or (document.parent / name).exists(), name

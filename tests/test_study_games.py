"""studies/vanishing.py and studies/collapse.py, in a short form."""

import csv
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import import_script, run_study
from PIL import Image

import data

pytestmark = pytest.mark.slow

vanishing, collapse = import_script("vanishing"), import_script("collapse")


@pytest.fixture
def on_digits(monkeypatch):
    monkeypatch.setattr(vanishing, "PAGE", SimpleNamespace(value="configs/digits.py"))


def test_a_generator_that_is_held_stays_and_d_learns(monkeypatch, on_digits):
    """G's parameters are the same bits after D's steps, and the minimax gradient falls."""
    setting = vanishing.Setting(depth=1, accumulate=1)
    config = vanishing.game_config("minimax", setting)
    dataset = data.load(config)
    monkeypatch.setattr(vanishing, "AGES", (3,))
    generator = vanishing.learn(dataset, 0)[3]
    kept = []
    steps = vanishing.steps

    def watched(*arguments):
        state, metrics = steps(*arguments)
        kept.append(state)
        return state, metrics

    monkeypatch.setattr(vanishing, "steps", watched)
    found = vanishing.ahead("minimax", setting, dataset, generator, 0, 300)
    [state] = kept
    for before, after in zip(
        jax.tree.leaves(generator.params), jax.tree.leaves(state.generator.params)
    ):
        np.testing.assert_array_equal(before, after)
    assert int(state.step) == 300
    assert found["d_accuracy"][-5:].min() > 0.95
    assert found["g_grad_norm"][-1] < 0.1 * found["g_grad_norm"][0]


def test_what_changes_a_game_is_what_its_name_says(on_digits):
    for game, changes in vanishing.GAMES.items():
        config = vanishing.game_config(game, vanishing.Setting(4, 4))
        assert (config.batch_size, config.accumulate, config.discriminator.depth) == (512, 4, 4)
        assert config.loss == changes["loss"]
        on = {f"penalties.{k}": x for k, x in config.penalties.items() if x}
        assert on == {k: x for k, x in changes.items() if k.startswith("penalties.")}


def test_moments_and_smoothing():
    assert vanishing.moments(1) == [0]
    moments = vanishing.moments(1_000)
    assert (moments[0], moments[1], moments[-1]) == (0, 1, 999)
    assert moments == sorted(set(moments))
    np.testing.assert_allclose(vanishing.smoothed(np.full((2, 20), 3.0)), 3.0)
    spike = np.ones((1, 21))
    spike[0, 10] = np.e**9
    np.testing.assert_allclose(vanishing.smoothed(spike)[0, 6:15], np.e)


def test_modes_over_time(tmp_path):
    words = [f"--out={tmp_path}", f"--runs={tmp_path / 'runs'}", "--seeds=1", "--num_steps=50"]
    result = run_study("collapse", *words)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "collapse.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["step"] for row in rows} == {str(step) for step in range(1, 51)}
    assert len(rows) == 50 * len(collapse.DATASETS) * len(collapse.CURES)
    movie = Image.open(tmp_path / "collapse.gif")
    assert movie.n_frames == 51
    assert movie.size[0] == collapse.PANEL * len(collapse.CURES)
    table = (tmp_path / "collapse.md").read_text().splitlines()
    assert len(table) == 2 + len(collapse.DATASETS) * len(collapse.CURES)
    again = run_study("collapse", *words)
    assert again.stdout.count("Nothing to do") == len(collapse.DATASETS) * len(collapse.CURES)


def test_what_is_lost_again_is_counted():
    rows = [
        {"dataset": d, "cure": c, "seed": 0, "step": i, "modes": m, "high_quality": "0.5"}
        for d in collapse.DATASETS
        for c in collapse.CURES
        for i, m in enumerate([1, 2, 8, 5, 8, 7])
    ]
    line = collapse.table(rows).splitlines()[2]
    assert line == "| ring | nothing | 7 | 0.5 | 5 | 1 |"


@pytest.mark.parametrize("name", ["vanishing", "collapse"])
def test_a_mistake_is_one_line(name, tmp_path):
    result = run_study(name, f"--out={tmp_path / 'nowhere'}")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "there is no such folder" in result.stderr

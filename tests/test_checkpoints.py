"""States on disk: whole and known to be so, or skipped by name."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import app

import runs
from checkpoints import Checkpoints

STATE = {"key": jax.random.key(3), "weights": jnp.arange(6.0).reshape(2, 3)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        checkpoints.save(step, STATE | {"weights": STATE["weights"] * step})
    checkpoints.close()
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of it to damage."""
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def scale(checkpoints):
    """Which of the two states is restored."""
    return float(checkpoints.restore(jax.eval_shape(lambda: STATE))["weights"][0, 1])


def test_checkpoints_keep_the_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.full(3, step)})
    checkpoints.save(3, {"x": jnp.full(3, 99)})  # there already
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [2, 3]
    np.testing.assert_array_equal(checkpoints.restore({"x": jnp.zeros(3, int)})["x"], [3, 3, 3])
    checkpoints.close()


def test_what_was_due_before_checkpoint_every_changed(tmp_path):
    """A rollback goes back to it, and not to the beginning."""
    checkpoints = Checkpoints(tmp_path, every=10)
    for step in (10, 20):
        checkpoints.save(step, STATE)
    checkpoints.close()
    found = {every: Checkpoints(tmp_path, every).latest_step(due=True) for every in (10, 3, 30)}
    assert found == {10: 20, 3: 20, 30: 20}


@pytest.mark.parametrize("kept", [1, 2, 5])
def test_so_many_of_the_latest_are_kept(tmp_path, kept):
    checkpoints = Checkpoints(tmp_path, kept=kept)
    for step in range(1, 8):
        checkpoints.best_step = 2 if step >= 2 else None
        checkpoints.save(step, {"x": jnp.full(3, step)})
    checkpoints.close()
    expected = sorted({2, *range(8 - kept, 8)})
    assert Checkpoints(tmp_path).steps() == expected


def test_the_latest_that_was_due_is_kept(tmp_path):
    """Beside those of later stops, and the best: a rollback goes there."""
    checkpoints = Checkpoints(tmp_path, every=5)
    for step in (1, 5, 6, 10, 11, 12, 13):
        if step == 6:
            checkpoints.best_step = 6
        checkpoints.save(step, {"x": jnp.full(3, step)})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, every=5)
    assert checkpoints.steps() == [6, 10, 12, 13]
    assert checkpoints.latest_step(due=True) == 10
    checkpoints.set_aside(10, again=True)
    assert checkpoints.steps() == [6, 10]
    checkpoints.save(11, {"x": jnp.full(3, 99)})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore({"x": jnp.zeros(3, int)})["x"][0] == 99
    checkpoints.close()


def test_every_file_of_a_state_is_in_its_list(saved):
    for step in (1, 2):
        folder = saved / "checkpoints" / str(step)
        files = {path for path in (folder / "default").rglob("*") if path.is_file()}
        assert {folder / name for name in json.loads((folder / "sha256.json").read_text())} == files
        assert len(files) > 5


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, Path.unlink])
def test_one_file_that_is_damaged_is_named_and_the_state_before_it_used(copied, caplog, damage):
    latest = copied / "checkpoints" / "2"
    names = sorted(
        path.relative_to(latest) for path in (latest / "default").rglob("*") if path.is_file()
    )
    for name in names:
        before = (latest / name).read_bytes()
        if not before and damage is not Path.unlink:
            continue
        damage(latest / name)
        caplog.clear()
        checkpoints = Checkpoints(copied)
        assert checkpoints.latest_step() == 1
        assert checkpoints.steps() == [1]
        assert scale(checkpoints) == 1
        assert runs_weights(copied)[0, 1] == 1
        checkpoints.close()
        assert name.name in caplog.text
        (latest / name).write_bytes(before)
    checkpoints = Checkpoints(copied)
    assert scale(checkpoints) == 2
    checkpoints.close()


def runs_weights(folder):
    (folder / "config.json").write_text("{}")
    return runs.read_networks(folder)["weights"]


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, Path.unlink, *(partial(Path.write_text, data=text) for text in ("[]", "{}"))],
)
def test_a_list_that_is_damaged_is_no_list(copied, damage):
    damage(copied / "checkpoints" / "2" / "sha256.json")
    checkpoints = Checkpoints(copied)
    assert checkpoints.latest_step() == 1
    checkpoints.close()


def test_an_empty_folder_is_no_checkpoint(copied):
    (copied / "checkpoints" / "3").mkdir()
    checkpoints = Checkpoints(copied)
    assert checkpoints.latest_step() == 2
    checkpoints.set_aside(2)
    checkpoints.save(3, STATE | {"weights": STATE["weights"] * 3})
    checkpoints.close()
    names = {path.name for path in (copied / "checkpoints").iterdir()}
    assert names == {"2", "3", "damaged_3"}
    checkpoints = Checkpoints(copied)
    assert scale(checkpoints) == 3
    checkpoints.close()


def test_all_damaged_is_an_error_that_names_each(copied):
    for path in copied.rglob("_METADATA"):
        flip_a_bit(path)
    checkpoints = Checkpoints(copied)
    with pytest.raises(app.UsageError, match=r"is whole: 1: default/_METADATA has changed.*; 2: "):
        checkpoints.latest_step()
    checkpoints.close()


def test_those_of_a_revision_without_lists_are_read(copied, caplog):
    for path in copied.rglob("sha256.json"):
        path.unlink()
    checkpoints = Checkpoints(copied)
    assert scale(checkpoints) == 2
    checkpoints.close()
    assert "not verified" in caplog.text


def test_a_checkpoint_of_another_device_opens_here(tmp_path):
    state = {"key": jax.random.key(3), "weights": jnp.arange(6.0).reshape(2, 3)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, state)
    checkpoints.close()
    (sharding,) = tmp_path.rglob("_sharding")
    written = sharding.read_text()
    assert "cpu:0" in written.lower()
    sharding.write_text(re.sub("(?i)cpu:0", "cuda:0", written))
    next(tmp_path.rglob("sha256.json")).unlink()  # of another machine's file
    (tmp_path / "config.json").write_text("{}")
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore(jax.eval_shape(lambda: state))
    checkpoints.close()
    np.testing.assert_array_equal(restored["weights"], state["weights"])
    assert (jax.random.key_data(restored["key"]) == jax.random.key_data(state["key"])).all()
    np.testing.assert_array_equal(runs.read_networks(tmp_path)["weights"], state["weights"])


def test_a_checkpoint_that_cannot_be_written_is_one_error(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="no checkpoint could be written in .*: full"):
        checkpoints.save(1, {"x": jnp.zeros(3)})

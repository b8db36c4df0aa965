"""A run's folder."""

import errno
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import app

import runs


def test_log_goes_on_after_its_step_and_drops_later_rows(tmp_path):
    log = runs.Log(tmp_path, step=0)
    for step in (10, 20, 30):
        log.write(step, step * 8, step / 10, {"train/d_loss": 1.5 / step, "train/x": np.nan})
    log.close()
    log = runs.Log(tmp_path, step=20)
    assert log.last["seconds"] == 2.0
    log.write(30, 240, 3.5, {"train/d_loss": 0.25, "train/x": 1.0})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[0] == {
        "step": 10, "images": 80, "seconds": 1.0, "train/d_loss": 0.15, "train/x": None,
    }  # fmt: skip
    assert rows[2]["train/d_loss"] == 0.25


def test_a_row_that_was_cut_off_is_dropped(tmp_path):
    row = '{"step": 10, "images": 80, "seconds": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(row.encode() + b'3\n\xff\n{"step": 20, "sec')
    log = runs.Log(tmp_path, step=10)
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == row


def test_check_says_what_a_workdir_is(tmp_path, make_config):
    config = make_config()
    assert runs.check(tmp_path / "a" / "b", config) is False
    assert not (tmp_path / "a").exists()
    runs.create(tmp_path / "a" / "b", config, resuming=False)
    with pytest.raises(app.UsageError, match="File exists"):  # begun by another at the same time
        runs.create(tmp_path / "a" / "b", config, resuming=False)
    assert runs.check(tmp_path / "a" / "b", config) is True
    for changes in (
        {"num_steps": 7, "log_every": 3},
        {"target.metric": "train/d_loss", "target.value": 0.5},
    ):
        assert runs.check(tmp_path / "a" / "b", make_config(changes=changes)) is True
    other = make_config(changes={"seed": 5, "optimizer.generator.learning_rate": 0.5})
    with pytest.raises(
        app.UsageError, match=r"optimizer.generator.learning_rate \(.* seed \(0 there, 5 now"
    ):
        runs.check(tmp_path / "a" / "b", other)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(app.UsageError, match="file is no folder"):
            runs.check(path, config)


def test_environment_says_what_a_result_depends_on():
    environment = runs.environment()
    json.dumps(environment)
    assert {"jax", "flax", "optax", "numpy"} <= set(environment["versions"])
    assert environment["devices"] == ["cpu"] * 8
    assert environment["git_revision"] is None or len(environment["git_revision"]) >= 40


def test_every_start_is_written_down(tmp_path, make_config, monkeypatch):
    for i in range(3):
        monkeypatch.setattr(sys, "argv", ["train.py", f"--start={i}"])
        runs.create(tmp_path, make_config(), resuming=i > 0)
    latest = json.loads((tmp_path / "env.json").read_text())
    earlier = latest.pop("earlier_starts")
    assert [start["command"][1] for start in (*earlier, latest)] == [
        f"--start={i}" for i in range(3)
    ]
    assert all("earlier_starts" not in start for start in earlier)


def test_a_full_disk_is_no_mistake(tmp_path, make_config, monkeypatch):
    """A job that is started again goes on when there is room; it is not told that it never can."""

    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(runs, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            runs.create(tmp_path, make_config(), resuming=False)
    runs.create(tmp_path, make_config(), resuming=False).close()
    with pytest.raises(app.UsageError, match="File exists: config.json"):
        runs.create(tmp_path, make_config(), resuming=False)


def test_a_file_is_written_whole_by_two_of_one_process_number(tmp_path):
    """As in two containers. A path's bytes need not be text."""
    path, texts = tmp_path / "sweep.html", ["a" * 10_000, "b" * 10_000]

    def write(text):
        for _ in range(100):
            runs.replace(path, text)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, texts))
    assert path.read_text() in texts
    assert os.listdir(tmp_path) == [path.name]
    runs.replace(path, os.fsdecode(b"\xff"))
    assert path.read_text() == "?"


def test_looking_at_a_run_leaves_it_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(app.UsageError, match="has no checkpoint"):
        runs.read_networks(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    log = runs.Log(tmp_path, step=0)
    log.picture(1, jnp.zeros((4, 8, 8, 1), jnp.uint8), np.zeros(0))  # there is no folder samples
    with pytest.raises(FileNotFoundError):
        log.close()


def test_events_that_cannot_be_written_are_an_error_and_hold_nothing_up(tmp_path, monkeypatch):
    log = runs.Log(tmp_path, 0)
    log.write(1, 16, 0.1, {"train/d_loss": 1.0})

    def write(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(log._events, "write_event", write)
    with pytest.raises(OSError, match="No space left"):
        log.write(2, 32, 0.2, {"train/d_loss": 1.0})


def test_log_does_not_wait_for_torch(tmp_path):
    """tensorboardX imports it where it is installed, as it is here, in more than a second."""
    assert importlib.util.find_spec("torch")
    code = (
        f"import pathlib, sys, runs; runs.Log(pathlib.Path({str(tmp_path)!r}), 0).close(); "
        "assert 'torch' not in sys.modules; import torch; torch.zeros(1)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(runs.__file__).parent, check=True)

"""Training as a user does it: a run, its folder, its end, its resume, and every mistake."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import app
from conftest import ROOT
from PIL import Image

import cli
import data
import gan as gans
import runs
import starts
import train

SMALL = ("--config.batch_size=16", "--config.generator.width=8", "--config.discriminator.width=8")
DIGITS = ("train.py", "--config=configs/digits.py", *SMALL)


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def assert_same_run(a: Path, b: Path) -> None:
    """Every leaf of the state, every row but for `seconds`, every picture."""
    states = [runs.read_networks(path) for path in (a, b)]
    leaves = [jax.tree.leaves(jax.tree.map(np.asarray, unkey(state))) for state in states]
    assert len(leaves[0]) > 20
    for x, y in zip(*leaves, strict=True):
        np.testing.assert_array_equal(x, y)
    first, second = ([{**row, "seconds": 0} for row in rows(path)] for path in (a, b))
    assert first == second
    pictures = [{p.name: p.read_bytes() for p in (path / "samples").iterdir()} for path in (a, b)]
    assert pictures[0] == pictures[1]


def unkey(state: dict) -> dict:
    key = state["key"]
    if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return {**state, "key": key}


def test_a_run_and_its_folder(command, tmp_path):
    workdir = tmp_path / "run"
    outcome = command(
        *DIGITS, f"--workdir={workdir}", "--config.num_steps=25", "--config.log_every=10",
        "--config.sample_every=20", "--config.checkpoint_every=10",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "Step 25: 400 images" in outcome.out
    for place in ("samples", "metrics.jsonl", "checkpoints"):
        assert str(workdir / place) in outcome.out
    assert "img/s" not in outcome.err  # no terminal, no bar

    log = rows(workdir)
    assert [row["step"] for row in log] == [10, 20, 25]
    assert [row["images"] for row in log] == [160, 320, 400]
    metrics = {"d_loss", "g_loss", "d_accuracy", "d_real_logit", "d_fake_logit"}
    metrics |= {"d_grad_norm", "g_grad_norm", "r1"}
    assert set(log[0]) == {"step", "images", "seconds", *(f"train/{name}" for name in metrics)}
    assert all(np.isfinite(value) for row in log for value in row.values())

    pictures = sorted(path.name for path in (workdir / "samples").iterdir())
    assert pictures == [f"step_{step:08d}.png" for step in (0, 20, 25)]
    assert picture_size(workdir / "samples" / pictures[-1]) == (582, 582)  # 10 x 10, enlarged

    config = json.loads((workdir / "config.json").read_text())
    assert config["num_steps"] == 25
    assert config["recipe"] == "mescheder"
    assert json.loads((workdir / "env.json").read_text())["versions"]["jax"] == jax.__version__
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert steps == [20, 25]
    assert tensorboard_scalars(workdir)["train/d_loss"] == [
        (row["step"], pytest.approx(row["train/d_loss"])) for row in log
    ]


def tensorboard_scalars(workdir: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir)).Reload()
    assert [image.step for image in events.Images("samples")] == [0, 20, 25]
    names = events.Tags()["scalars"]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


CARRYING = {  # a controller, averages of logits, power iterations, schedules, labels
    "ada_target": 0.1,
    "ada_images": 100,
    "d_augment.translation": 1.0,
    "penalties.lecam": 0.1,
    "penalties.r1_end": 0.1,
    "decay_images": 1_000,
    "discriminator.norm": "spectral",
    "conditional": True,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "more"),
    [("goodfellow", {}), ("mescheder", {}), ("dcgan", {}), ("mescheder", CARRYING)],
    ids=["goodfellow", "mescheder", "dcgan", "what is carried"],
)
def test_a_resume_in_the_middle_of_an_epoch_gives_the_same_bits(
    make_config, tmp_path, recipe, more
):
    """1,297 digits, two batches of 16 a step: step 41 begins the second epoch within itself.

    Where steps are taken three a call, reports at every fifth divide them into three and two.
    """
    changes = more | {"batch_size": 16, "num_steps": 75, "log_every": 5, "sample_every": 30}
    changes |= {"checkpoint_every": 20, "augment.crop": 1, "ema_half_life": 100.0}
    changes |= {"eval_every": 25, "eval_samples": 50}
    changes["steps_per_call"] = 1 if recipe == "dcgan" else 3
    config = make_config(f"configs/digits.py:{recipe}", changes)
    train.train_and_evaluate(config, tmp_path / "whole")
    assert 40 * 32 < 1_297 < 41 * 32

    calls = iter(range(1_000))  # asked before the first, then after each
    last = 43 if recipe == "dcgan" else 17
    stopped = train.train_and_evaluate(config, tmp_path / "cut", stop=lambda: next(calls) == last)
    assert int(stopped.step) == 43
    if more:
        assert 0 < float(stopped.aux["ada"]) < 1
        assert float(stopped.aux["lecam"]["real"]) != 0
    train.train_and_evaluate(config, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_damaged_checkpoint_is_put_aside_and_the_bits_are_the_same(make_config, tmp_path):
    changes = {"batch_size": 16, "num_steps": 20, "checkpoint_every": 5, "log_every": 5}
    config = make_config(changes=changes)
    for name in ("whole", "damaged"):
        train.train_and_evaluate(config, tmp_path / name)
    latest = tmp_path / "damaged" / "checkpoints" / "20"
    largest = max(
        (path for path in latest.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[-1] ^= 128
    largest.write_bytes(content)
    train.train_and_evaluate(config, tmp_path / "damaged")
    assert (tmp_path / "damaged" / "checkpoints" / "damaged_20").is_dir()
    assert_same_run(tmp_path / "whole", tmp_path / "damaged")


def test_a_resume_goes_further_with_more_steps(make_config, tmp_path):
    config = make_config(changes={"batch_size": 16, "num_steps": 4, "log_every": 2})
    train.train_and_evaluate(config, tmp_path)
    config.num_steps = 6
    state = train.train_and_evaluate(config, tmp_path)
    assert int(state.step) == 6
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 6]
    assert json.loads((tmp_path / "config.json").read_text())["num_steps"] == 6


def test_a_picture_that_a_kill_has_left_out_is_drawn_again(make_config, tmp_path):
    """Pictures are drawn while training goes on, so that a checkpoint may be there before its own."""
    changes = {"batch_size": 16, "num_steps": 5, "sample_every": 3, "log_every": 5}
    config = make_config(changes=changes)
    train.train_and_evaluate(config, tmp_path)
    names = [f"step_{step:08d}.png" for step in (0, 3, 5)]
    before = {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    assert sorted(before) == names
    (tmp_path / "samples" / names[-1]).unlink()
    train.train_and_evaluate(config, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()} == before


@pytest.fixture
def not_finite_from_step(monkeypatch):
    """not_finite_from_step(60, rate): so it is by hand, as long as G's learning rate is above that."""
    original = train.train_steps

    def change(step, rate=0.0):
        def train_steps(gan, state, *rest):
            state, metrics = original(gan, state, *rest)
            wild = state.hparams["generator"]["learning_rate"] > rate
            bad = (state.step >= step) & wild
            return state, metrics | {"d_loss": jnp.where(bad, jnp.nan, metrics["d_loss"])}

        monkeypatch.setattr(train, "train_steps", train_steps)

    return change


NAN = {"batch_size": 16, "num_steps": 100, "log_every": 20, "checkpoint_every": 25}
NAN |= {"sample_every": 50, "steps_per_call": 5}


def test_where_numbers_are_not_finite_it_stops(command, tmp_path, not_finite_from_step):
    not_finite_from_step(60)
    words = [*DIGITS, f"--workdir={tmp_path}", *(f"--config.{k}={x}" for k, x in NAN.items())]
    outcome = command(*words)
    assert outcome.code == 1
    message = next(line for line in outcome.err.splitlines() if "not finite" in line)
    before = rows(tmp_path)[-2]
    assert "step 60: not finite: train/d_loss; at step 40 " in message
    assert f"train/g_loss = {before['train/g_loss']:.4g}" in message
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["25", "50"]
    assert os.listdir(tmp_path / "not_finite" / "checkpoints") == ["65"]  # a call later
    assert runs.read_networks(tmp_path)["step"] == 50
    kept = rows(tmp_path)
    again = command(*words)
    assert again.code == 1
    assert "has stopped at numbers that are not finite" in again.err
    assert rows(tmp_path) == kept
    shutil.rmtree(tmp_path / "not_finite")  # as by a kill before it was written: it is found anew
    again = command(*words)
    assert again.code == 1
    assert os.listdir(tmp_path / "not_finite" / "checkpoints") == ["65"]
    assert [row | {"seconds": 0} for row in rows(tmp_path)] == [
        row | {"seconds": 0} for row in kept
    ]


def test_a_state_that_is_not_finite_is_no_checkpoint(make_config, tmp_path, not_finite_from_step):
    """Found between two rows, too."""
    not_finite_from_step(60)
    train.train_and_evaluate(make_config(changes=NAN | {"log_every": 100}), tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["25", "50"]
    assert [(row["step"], row["train/d_loss"]) for row in rows(tmp_path)] == [(75, None)]
    calls = iter(range(1_000))  # and where a signal comes
    config = make_config(changes=NAN | {"log_every": 100})
    train.train_and_evaluate(config, tmp_path / "cut", stop=lambda: next(calls) == 13)
    assert sorted(os.listdir(tmp_path / "cut/checkpoints")) == ["25", "50"]
    assert os.listdir(tmp_path / "cut/not_finite/checkpoints") == ["65"]


@pytest.mark.slow
def test_it_rolls_back(make_config, tmp_path, not_finite_from_step):
    """To the checkpoint before, with half the rates; a kill on the way changes no bit."""
    config = make_config(changes=NAN | {"on_nan": "rollback"})
    rate = config.optimizer.generator.learning_rate
    not_finite_from_step(60, 0.3 * rate)
    state = train.train_and_evaluate(config, tmp_path / "whole")
    alarms = {row["step"]: row.get("alarms") for row in rows(tmp_path / "whole")}
    assert alarms == {
        20: None,
        40: None,
        60: ["rolled back to step 50: 2 time(s) so far"],
        80: None,
        100: None,
    }
    rarely = make_config(changes=NAN | {"on_nan": "rollback", "log_every": 100})
    train.train_and_evaluate(rarely, tmp_path / "rarely")  # a checkpoint without it would not tell
    alarms = {row["step"]: row.get("alarms") for row in rows(tmp_path / "rarely")}
    assert alarms == {75: ["rolled back to step 50: 2 time(s) so far"], 100: None}
    for player in ("generator", "discriminator"):
        usual = config.optimizer[player].learning_rate
        assert float(state.hparams[player]["learning_rate"]) == pytest.approx(usual / 4)
        assert float(state.hparams["end"][player]["learning_rate"]) == pytest.approx(usual / 4)
    plain = train.train_and_evaluate(
        make_config(changes=NAN | {"num_steps": 50}), tmp_path / "plain"
    )
    assert not (jax.random.key_data(plain.key) == jax.random.key_data(state.key)).all()
    for stop in (10, 11, 14, 16, 18, 21):  # calls; the rollbacks are after the 12th and 14th
        calls = iter(range(1_000))
        place = tmp_path / str(stop)
        train.train_and_evaluate(config, place, stop=lambda: next(calls) == stop)  # noqa: B023
        train.train_and_evaluate(config, place)
        assert_same_run(tmp_path / "whole", place)


def test_it_rolls_back_to_a_stop_where_no_checkpoint_was_due(
    make_config, tmp_path, not_finite_from_step
):
    """`checkpoint_every` has grown beyond all that there are."""
    config = make_config(changes=NAN | {"on_nan": "rollback", "num_steps": 50})
    not_finite_from_step(60, 0.6 * config.optimizer.generator.learning_rate)
    train.train_and_evaluate(config, tmp_path)
    longer = {"on_nan": "rollback", "checkpoint_every": 80}
    train.train_and_evaluate(make_config(changes=NAN | longer), tmp_path)
    [alarm] = [row["alarms"] for row in rows(tmp_path) if "alarms" in row]
    assert alarm == ["rolled back to step 50: 1 time(s) so far"]


def test_rollbacks_have_an_end(make_config, tmp_path, not_finite_from_step, capsys):
    not_finite_from_step(60)
    config = make_config(changes=NAN | {"on_nan": "rollback", "max_rollbacks": 2})
    train.train_and_evaluate(config, tmp_path)
    assert rows(tmp_path)[-1]["alarms"] == ["rolled back to step 50: 2 time(s) so far"]
    assert rows(tmp_path)[-1]["train/d_loss"] is None
    assert (tmp_path / "not_finite").is_dir()
    before = [row["step"] for row in rows(tmp_path)], (tmp_path / "not_finite").stat().st_mtime_ns
    capsys.readouterr()
    train.train_and_evaluate(config, tmp_path)  # nothing is tried again
    assert "with a --config.max_rollbacks above 2" in capsys.readouterr().err
    after = [row["step"] for row in rows(tmp_path)], (tmp_path / "not_finite").stat().st_mtime_ns
    assert before == after
    more = make_config(changes=NAN | {"on_nan": "rollback", "max_rollbacks": 3})
    train.train_and_evaluate(more, tmp_path)
    assert rows(tmp_path)[-1]["alarms"] == ["rolled back to step 50: 3 time(s) so far"]


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    """SIGKILL between two checkpoints: the same command ends with the same bits."""
    arguments = [
        sys.executable, "train.py", "--config=configs/digits.py", "--config.batch_size=16",
        "--config.num_steps=1600", "--config.checkpoint_every=200", "--config.log_every=100",
    ]  # fmt: skip
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [*arguments, f"--workdir={tmp_path / 'whole'}"], cwd=ROOT, env=environment, check=True
    )
    command = [*arguments, f"--workdir={tmp_path / 'killed'}"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    wait_for(lambda: (tmp_path / "killed" / "checkpoints" / "400").is_dir(), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_compiled_programs_are_kept(tmp_path):
    """A second start finds them and has the same bits; damaged or in others' hands they are not run."""
    programs = tmp_path / "twoplayer" / "programs"

    def start(name: str) -> tuple[list[str], str]:
        command = [sys.executable, *DIGITS, "--config.num_steps=8", f"--workdir={tmp_path / name}"]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
        # JAX keeps what took a second to compile, which chance would decide.
        environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        outcome = subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        return sorted(path.name for path in programs.glob("*-cache")), outcome.stderr

    compiled, _ = start("cold")
    assert any("train_steps" in name for name in compiled)
    assert programs.stat().st_mode & 0o777 == 0o700
    written = {name: (programs / name).stat().st_mtime_ns for name in compiled}
    kept, err = start("warm")
    assert (set(compiled) - set(kept), err) == (set(), "")  # on a busy machine one more is kept
    assert written == {name: (programs / name).stat().st_mtime_ns for name in compiled}
    for name in compiled:
        content = bytearray((programs / name).read_bytes())
        content[len(content) // 2] ^= 1
        (programs / name).write_bytes(content)
    _, err = start("damaged")
    assert "Error reading persistent compilation cache entry" in err
    shutil.rmtree(programs)
    programs.mkdir()
    programs.chmod(0o777)
    kept, err = start("shared")
    assert (kept, "others can write to" in err) == ([], True)
    for name in ("warm", "damaged", "shared"):
        assert_same_run(tmp_path / "cold", tmp_path / name)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops(tmp_path, number, code):
    command = [
        sys.executable, "train.py", "--config=configs/digits.py", f"--workdir={tmp_path}",
        "--config.num_steps=1000000", "--config.log_every=50", "--config.batch_size=16",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE
    )
    log = tmp_path / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 2, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    step = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert f"Step {step:,}: " in out.decode()


@pytest.mark.slow
def test_a_job_that_has_so_many_seconds_goes_on_in_the_next(command, tmp_path):
    words = [*DIGITS, f"--workdir={tmp_path / 'cut'}", "--config.log_every=100"]
    command(*words, "--config.num_steps=100", f"--workdir={tmp_path / 'compiled'}")
    began = time.monotonic()
    outcome = command(*words, "--config.num_steps=100000", "--max_seconds=5")
    assert (outcome.code, time.monotonic() - began < 90) == (0, True)
    step = max(int(path.name) for path in (tmp_path / "cut/checkpoints").iterdir())
    assert 0 < step < 100_000
    assert f"Step {step:,}: " in outcome.out
    words.append(f"--config.num_steps={step + 20}")
    assert command(*words).code == 0
    assert command(*[word.replace("/cut", "/whole") for word in words]).code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("given", ["", "--xla_cpu_enable_fast_math=false"])
def test_deterministic_sets_what_a_gpu_needs(tmp_path, given):
    words = f"train.py --config=configs/digits.py --config.num_steps=1 --workdir={tmp_path / 'run'}"
    script = (
        "import os, sys, runpy, atexit; atexit.register(lambda: print(os.environ['XLA_FLAGS']));"
    )
    script += "runpy.run_path('train.py', run_name='__main__')"
    command = [sys.executable, "-c", script, *words.split()[1:], "--deterministic"]
    environment = os.environ | {"XLA_FLAGS": given, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *first, eigens, last = done.stdout.splitlines()[-1].split()
    assert first == given.split()
    assert eigens.startswith("--xla_cpu_experimental_ynn_fusion_type=-")
    assert last == "--xla_gpu_deterministic_ops=true"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("script", ["train.py", "sweep.py"])
def test_ctrl_c_while_modules_are_loading_ends_at_once(tmp_path, script):
    words = [sys.executable, script, "--config=configs/digits.py", f"--workdir={tmp_path}"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    loaded = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "numpy" in loaded.read_text(), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in err


def wait_for(condition, process: subprocess.Popen) -> None:
    for _ in range(1_200):
        if condition():
            return
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    raise AssertionError("it took two minutes")


def test_a_target_ends_training(command, tmp_path):
    outcome = command(
        *DIGITS, f"--workdir={tmp_path}", "--config.num_steps=500", "--config.log_every=10",
        "--config.target.metric=train/d_loss", "--config.target.value=1.2",
    )  # fmt: skip
    assert outcome.code == 0
    losses = [row["train/d_loss"] for row in rows(tmp_path)]
    assert losses[-1] <= 1.2 < min(losses[:-1], default=9)
    assert "Reached train/d_loss = " in outcome.out
    before = rows(tmp_path)
    outcome = command(
        *DIGITS, f"--workdir={tmp_path}", "--config.num_steps=500", "--config.log_every=10",
        "--config.target.metric=train/d_loss", "--config.target.value=1.2",
    )  # fmt: skip
    assert (outcome.code, rows(tmp_path)) == (0, before)  # started again, it has still reached it
    assert "Reached train/d_loss = " in outcome.out
    step = rows(tmp_path)[-1]["step"]
    assert step < 500
    assert runs.sample_path(tmp_path, step).exists()


def test_never_is_never(command, tmp_path):
    outcome = command(
        *DIGITS, f"--workdir={tmp_path}", "--config.num_steps=3", "--config.log_every=0",
        "--config.sample_every=0", "--config.checkpoint_every=0",
    )  # fmt: skip
    assert outcome.code == 0
    assert not list((tmp_path / "samples").iterdir())
    assert not (tmp_path / "checkpoints").exists()
    assert rows(tmp_path) == []


def test_init_from_takes_the_variables_too(make_config, tmp_path):
    changes = {"batch_size": 8, "num_steps": 2, "generator.width": 8, "discriminator.width": 8}
    config = make_config("configs/digits.py:dcgan", changes | {"resolution": 16})
    donor = train.train_and_evaluate(config, tmp_path / "donor")
    config.num_steps, config.seed = 0, 7
    train.train_and_evaluate(config, tmp_path / "heir", init_from=tmp_path / "donor")
    state = train.train_and_evaluate(config, tmp_path / "heir")
    for player in ("generator", "discriminator", "average"):
        ours, theirs = (getattr(x, player) for x in (state, donor))
        assert jax.tree.leaves(ours.variables)
        jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
        jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def test_two_processes_do_not_train_in_one_folder(command, tmp_path):
    words = [sys.executable, "train.py", "--config=configs/digits.py", f"--workdir={tmp_path}"]
    words += ["--config.num_steps=1000000", "--config.log_every=50", "--config.batch_size=16"]
    first = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    log = tmp_path / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 2, first)
    outcome = command(*words[1:])
    first.terminate()
    assert (outcome.code, "another process trains there" in outcome.err) == (2, True)
    assert first.wait() == 143
    steps = [row["step"] for row in rows(tmp_path)]
    assert steps == list(range(50, steps[-1] + 1, 50))  # every row of the first is there


def test_init_from_takes_the_weights_and_nothing_else(make_config, command, tmp_path):
    config = make_config(changes={"batch_size": 16, "num_steps": 5, "ema_half_life": 50.0})
    donor = train.train_and_evaluate(config, tmp_path / "donor")
    config.num_steps, config.seed, config.optimizer.generator.learning_rate = 0, 7, 5e-3
    state = train.train_and_evaluate(config, tmp_path / "heir", init_from=tmp_path / "donor")
    for player in ("generator", "discriminator", "average"):
        ours, theirs = getattr(state, player), getattr(donor, player)
        jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    moments = jax.tree.leaves(state.generator.opt_state)
    assert not any(np.any(leaf) for leaf in moments)
    assert int(state.step) == 0
    assert float(state.hparams["generator"]["learning_rate"]) == pytest.approx(5e-3)

    again = train.train_and_evaluate(config, tmp_path / "heir")  # without naming the donor
    jax.tree.map(np.testing.assert_array_equal, again.generator.params, donor.generator.params)

    base = ("train.py", "--config=configs/digits.py", f"--init_from={tmp_path / 'donor'}")
    for change, player in (
        ("generator.width=9", "generator"),
        ("discriminator.depth=3", "discriminator"),
    ):
        outcome = command(*base, f"--workdir={tmp_path / 'x'}", f"--config.{change}")
        words = f"init_from: the {player} of {tmp_path / 'donor'} is another network"
        assert (outcome.code, words in outcome.err) == (2, True), outcome.err
        assert outcome.compilations == 0
        assert not (tmp_path / "x").exists()


def test_a_command_with_init_from_goes_on_where_it_is_started_again(make_config, tmp_path):
    donor, heir = tmp_path / "donor", tmp_path / "heir"
    config = make_config(changes={"batch_size": 16, "num_steps": 5, "checkpoint_every": 5})
    train.train_and_evaluate(config, donor)
    with pytest.raises(app.UsageError, match="that began with weights of its own"):
        train.train_and_evaluate(config, donor, init_from=heir)
    config.seed = 7
    first = train.train_and_evaluate(config, heir, init_from=donor)
    config.num_steps = 8
    with pytest.raises(app.UsageError, match=f"that began with the weights of {donor}"):
        train.train_and_evaluate(config, heir, init_from=heir)
    donor.rename(tmp_path / "moved")  # it is not needed again
    again = train.train_and_evaluate(config, heir, init_from=donor)
    assert (int(first.step), int(again.step)) == (5, 8)
    assert [start["init_from"] for start in runs.read_starts(heir)] == [str(donor)] * 2
    donor.symlink_to(tmp_path / "moved")
    train.train_and_evaluate(config, heir, init_from=donor)


def test_a_run_without_checkpoints(make_config, tmp_path):
    """It begins anew, with the same weights, where it had not come to its end."""
    changes = {"batch_size": 16, "num_steps": 3, "log_every": 1, "checkpoint_every": 0}
    config = make_config(changes=changes)
    train.train_and_evaluate(make_config(changes=changes | {"checkpoint_every": 3}), tmp_path / "x")
    config.seed = 7
    heir = tmp_path / "heir"
    whole = train.train_and_evaluate(config, heir, init_from=tmp_path / "x")
    kept = (heir / "metrics.jsonl").read_text()
    with pytest.raises(app.UsageError, match="was trained to step 3 and has no checkpoint"):
        train.train_and_evaluate(config, heir)
    assert (heir / "metrics.jsonl").read_text() == kept
    (heir / "metrics.jsonl").write_text("".join(kept.splitlines(keepends=True)[:2]))  # a kill
    again = train.train_and_evaluate(config, heir)
    jax.tree.map(np.testing.assert_array_equal, whole.generator.params, again.generator.params)


def test_describe_trains_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = f"--config={ROOT / 'configs/digits.py'}:goodfellow"
    outcome = command("train.py", config, "--describe")
    assert outcome.code == 0
    assert not list(tmp_path.iterdir())
    generator = (100 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 64
    discriminator = (64 + 1) * 128 + (128 + 1) * 128 + (128 + 1)
    assert f"Generator: {generator:,} parameters" in outcome.out
    assert f"Discriminator: {discriminator:,} parameters" in outcome.out
    assert "Loss: minimax" in outcome.out
    assert "GFLOP" in outcome.out


def test_the_default_workdir_says_what_it_is(make_config):
    config = make_config("configs/digits.py:goodfellow")
    first, second = (train.default_workdir(config, "digits") for _ in range(2))
    assert first.startswith("runs/digits-goodfellow-20")
    assert first != second


def test_one_compilation_of_the_step_in_a_run(make_config, tmp_path):
    before = train.train_steps._cache_size()
    for num_steps in (30, 40):
        config = make_config(changes={"batch_size": 16, "num_steps": num_steps, "log_every": 10})
        config.generator.width = 9  # a program of its own
        train.train_and_evaluate(config, tmp_path)
    assert train.train_steps._cache_size() - before <= 2  # the second: what a checkpoint restored


def test_a_profile_is_a_trace_of_some_calls(command, tmp_path):
    steps = (*DIGITS, "--config.num_steps=130", "--config.log_every=10")
    folder = tmp_path / "profile"
    outcome = command(*steps, f"--workdir={tmp_path / 'a'}", f"--profile={folder}")
    assert (outcome.code, f"profile      {folder}" in outcome.out) == (0, True)
    (file,) = folder.rglob("*.xplane.pb")  # what TensorBoard's profile plugin reads
    trace = json.loads(gzip.decompress(next(folder.rglob("*.trace.json.gz")).read_bytes()))
    calls = [event for event in trace["traceEvents"] if event.get("name") == "train"]
    assert [int(call["args"]["step_num"]) for call in calls] == list(range(10, 110, 10))
    assert command(*steps, f"--workdir={tmp_path / 'b'}").code == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")
    again = (*steps, f"--workdir={tmp_path / 'b'}", f"--profile={tmp_path / 'none'}")
    assert "none: training was too short" in command(*again).out
    outcome = command(*again[:-1], f"--profile={file}")
    assert (outcome.code, outcome.err) == (2, f"train.py: profile {file}: File exists\n")


@pytest.mark.parametrize("script", ["train", "evaluate", "sample", "sweep"])
def test_help_tells_of_every_flag(script):
    words = subprocess.run([sys.executable, f"{script}.py", "--help"], cwd=ROOT,
                           capture_output=True, text=True).stdout  # fmt: skip
    takes_config = script in ("train", "sweep")
    for flag in ("--workdir", "--config" if takes_config else "--truncation"):
        assert f"  {flag}: " in words


MISTAKES = {
    "a donor that is not there": (("--describe", "--init_from=/nowhere"), "/nowhere holds no run"),
    "a time-out of one process": (("--host_timeout=9",), "--host_timeout is for --distributed or"),
    "two configs": (("--config=configs/mnist.py", "--config=configs/digits.py"), "--config is given twice: "),
    "a folder without a name": (("--config.dataset=folder:",), "names no folder: folder:PATH"),
    "no group": (("--config.discriminator.name=dcgan", "--config.discriminator.minibatch_stddev=-4"),
        "discriminator.minibatch_stddev must be 0 (off) or more, not -4"),
    "no number": (("--max_seconds=nan",), "--max_seconds takes a number, not nan"),
    "an empty flag": (("--init_from=",), "--init_from is empty: give it a value, or leave it out"),
    "no config": ((), "--config=FILE is missing"),
    "no file": (("--config=configs/nope.py",), "configs/nope.py does not exist"),
    "no recipe": (
        ("--config=configs/digits.py:goodfelow",),
        "recipe 'goodfelow' does not exist: choose from goodfellow, cgan, dcgan",
    ),
    "mistyped field": (("--config.optimizer.generator.learning_rat=1",), "did you mean optimizer.generator.learning_rate?"),
    "unknown field": (("--config.zzz=1",), "there are accumulate, ada_images"),
    "a group": (("--config.target=1",), "set one of target.metric, target.value"),
    "wrong type": (("--config.batch_size=1.5",), "--config.batch_size takes int, not '1.5'"),
    "wrong type in a placeholder": (("--config.generator.width=wide",), "takes int, not 'wide'"),
    "no bool": (("--config.balanced=maybe",), "--config.balanced takes bool, not 'maybe'"),
    "unknown flag": (("--work=3",), "Unknown command line flag 'work'"),
    "not a flag": (("workdir",), "unexpected argument 'workdir'"),
    "batch 0": (("--config.batch_size=0",), "batch_size must be at least 1, not 0"),
    "batch too large": (("--config.batch_size=2000",), "batch_size=2000 is larger than digits: 1297"),
    "negative rate": (("--config.optimizer.discriminator.learning_rate=-1",), "more than 0, in float32 too, not -1.0"),
    "negative steps": (("--config.num_steps=-1",), "num_steps must be 0 or more, not -1"),
    "no flagfile": (("--flagfile=/nowhere",), "Unable to open flagfile"),
    "a rate that is infinite in float32": (
        ("--config.optimizer.generator.learning_rate=1e60",), "learning_rate must be more than 0"),
    "latents beyond the memory": (("--config.latent_dim=1000000000000",), "these networks and latents need"),
    "networks beyond the memory": (("--config.generator.width=100000000",), "these networks and latents need"),
    "samples beyond the memory": (("--config.eval_samples=100000000000",), "100000000000 samples take 5,960 GiB"),
    "images beyond the memory": (("--config.resolution=100000",), "digits at resolution=100000 takes"),
    "more pixels than a float counts": (("--config.resolution=1" + "0" * 200,), "resolution must be an integer of 64 bits"),
    "more latents than JAX counts": (("--config.latent_dim=9223372036854775808",), "latent_dim must be an integer of 64 bits"),
    "a version that is not": (("--config.dataset=mnist:9.0.1",), "dataset mnist:9.0.1: "),
    "a step that is unrolled for hours": (("--config.d_steps=1000000",), "d_steps is at most 100, not 1000000"),
    "a million layers": (("--config.generator.depth=1000000",), "generator.depth is at most 100, not 1000000"),
    "blocks too wide": (
        ("--config.generator.name=r3gan", "--config.generator.expansion=10000"), "group_size=16 makes 40,000 groups of 640,000 channels"),
    "statistics of a million batches": (
        ("--config.generator.name=dcgan", "--config.standing_statistics=1000000"), "standing_statistics is at most 100"),
    "a call of a billion steps": (("--config.steps_per_call=1000000000",), "steps_per_call is at most 10,000"),
    "a billion runs": (("--config.population=1000000000",), "population is at most 10,000"),
    "large seed": (("--config.seed=4294967296",), "seed must be less than 2**32, not 4294967296"),
    "more steps than JAX counts": (("--config.num_steps=2147483648",), "num_steps is at most 2,147,483,647"),
    "no checkpoint is kept": (("--config.checkpoints_kept=0",), "checkpoints_kept must be at least 1, not 0"),
    "checkpoints kept of none": (("--config.checkpoint_every=0", "--config.checkpoints_kept=5"), "checkpoint_every is 0"),
    "negative seed": (("--config.seed=-1",), "seed must be 0 or more, not -1"),
    "unknown loss": (("--config.loss=x",), "loss='x' does not exist: choose from minimax, non_saturating"),
    "unknown model": (("--config.generator.name=x",), "generator.name='x' does not exist: choose from mlp, dcgan"),
    "unknown norm": (("--config.discriminator.name=dcgan", "--config.discriminator.norm=x"), "batch or none"),
    "unknown optimiser": (("--config.optimizer.generator.name=x",), "choose from sgd, optimistic_sgd"),
    "unknown data set": (("--config.dataset=mnits",), "did you mean mnist?"),
    "a data set elsewhere": (("--config.dataset=huggingface:x/y",), "does not exist"),
    "no folder": (("--config.dataset=folder:/nowhere",), "there is no such folder"),
    "resolution 18 for dcgan": (
        ("--config.resolution=18", "--config.generator.name=dcgan"), "cannot make 18x18 images"),
    "resolution -1": (("--config.resolution=-1",), "resolution must be at least 1, not -1"),
    "dcgan on points": (("--config.dataset=ring", "--config.generator.name=dcgan"), "points"),
    "target never logged": (("--config.target.metric=eval/fid",), "'eval/fid' is never logged: there are train/d_acc"),
    "value without target": (("--config.target.value=1",), "does nothing here: target.metric is not set"),
    "b1 of sgd": (
        ("--config=configs/digits.py:goodfellow", "--config.optimizer.generator.b1=0.5"),
        "optimizer.generator.b1 does nothing here: sgd has no such number",
    ),
    "blocks of an mlp": (("--config.discriminator.blocks=2",), "does nothing here: mlp has condition, depth, norm"),
    "lazy without penalty": (
        ("--config=configs/digits.py:goodfellow", "--config.lazy_every=4"), "no penalty is on"),
    "recipe as a field": (("--config.recipe=dcgan",), "choose one with --config=FILE:RECIPE"),
    "a home that is not": (("--config.dataset=folder:~nosuch/x",), "there is no such folder"),
    "init_from nothing": (("--init_from=/nowhere",), "/nowhere holds no run"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(command, tmp_path, mistake):
    arguments, words = MISTAKES[mistake]
    if (
        not any(argument.startswith("--config=") for argument in arguments)
        and mistake != "no config"
    ):
        arguments = ("--config=configs/digits.py", *arguments)
    workdir = tmp_path / "run"
    outcome = command("train.py", *arguments, f"--workdir={workdir}")
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1, outcome.err
    assert words in outcome.err
    assert outcome.out == ""
    assert outcome.compilations == 0
    assert not workdir.exists()


PAGE = """from configs import recipes
def get_config():
    config = recipes.get_config("mescheder")
    """


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1", "does not define get_config"),
        ("def get_config(: pass", "SyntaxError"),
        (
            "import nothing_of_this_name",
            "ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("def get_config():\n    return {}['rate']", "KeyError: 'rate' (config.py, line 2)"),
        ("def get_config():\n    return 3", "returns no ConfigDict"),
        (PAGE + "config.los = 'x'", 'Did you mean "loss" instead of "los"? (config.py, line 4)'),
        (PAGE + "config.generator.widht = 3", 'Did you mean "width"'),
        (PAGE + "config.batch_size = 'x'", "'batch_size' (reference). x is of original type"),
        (
            PAGE + "config.lazy_every, config.penalties.r1 = 4, 0",
            "lazy_every=4 in the config file does nothing: no penalty is on",
        ),
        (PAGE + "config.batch_size = 0", "batch_size must be at least 1"),
        ("from configs.recipes import get_config", "recipe '' does not exist: choose from"),
        (
            PAGE + "config.unlock(); config.los = 'x'",
            "the field los does not exist: did you mean loss?",
        ),
        (PAGE + "config.unlock(); del config.loss", "the field loss is missing"),
        (
            PAGE + "\n    with config.ignore_type(): config.d_steps = 1.5",
            "d_steps takes int, not 1.5",
        ),
    ],
)
def test_a_config_file_that_is_none(command, tmp_path, source, words):
    ending = "\n    return config" if source.startswith(PAGE) else ""
    (tmp_path / "config.py").write_text(source + ending)
    outcome = command("train.py", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path}/run")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert outcome.compilations == 0


def test_a_page_may_have_what_only_an_override_uses(command, tmp_path):
    (tmp_path / "config.py").write_text(
        PAGE + "config.lazy_every, config.penalties.r1 = 4, 0\n    return config"
    )
    page = ("train.py", f"--config={tmp_path / 'config.py'}", "--describe")
    assert command(*page).code == 2
    assert command(*page, "--config.penalties.r1=0.5").code == 0
    sgd = "--config.optimizer.generator.name=sgd"  # makes the recipe's b1 useless: no mistake
    assert command("train.py", "--config=configs/digits.py", sgd, "--describe").code == 0


def test_a_mistake_in_a_flagfile(command, tmp_path):
    (tmp_path / "flags").write_text("--config=configs/digits.py\n--config.lozz=3\n")
    outcome = command("train.py", f"--flagfile={tmp_path / 'flags'}")
    assert (outcome.code, "did you mean loss?" in outcome.err) == (2, True), outcome.err
    (tmp_path / "flags").write_text(
        "--config=configs/digits.py:goodfellow\n--config.loss=minimax\n"
    )
    outcome = command("train.py", f"--flagfile={tmp_path / 'flags'}", "--describe")
    assert (outcome.code, "Recipe goodfellow" in outcome.out) == (0, True), outcome.err


def test_a_workdir_of_another_run_is_left_untouched(command, tmp_path):
    arguments = (*DIGITS, f"--workdir={tmp_path}", "--config.num_steps=2")
    assert command(*arguments).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    outcome = command(*arguments, "--config.seed=3", "--config.d_steps=2")
    assert outcome.code == 2
    assert "d_steps (1 there, 2 now), seed (0 there, 3 now)" in outcome.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_workdir_that_is_a_file(command, tmp_path):
    (tmp_path / "run").write_text("mine")
    outcome = command(*DIGITS, f"--workdir={tmp_path / 'run'}")
    assert (outcome.code, "is no folder" in outcome.err) == (2, True)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_workdir_that_is_not_writable(command, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(tmp_path)))
    outcome = command(*DIGITS, f"--workdir={tmp_path / 'run'}")
    assert (outcome.code, "is not writable" in outcome.err) == (2, True)
    assert outcome.compilations == 0


@pytest.mark.parametrize("workdir", ["/proc/x", "/sys/x/y", "x" * 300])
def test_a_workdir_that_cannot_be_made(command, tmp_path, workdir):
    outcome = command(*DIGITS, f"--workdir={tmp_path / workdir}")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "workdir" in outcome.err
    assert outcome.compilations == 0


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    config = cli.load_config("configs/digits.py")
    config.update_from_flattened_dict({"batch_size": 16, "num_steps": 2, "log_every": 1})
    config.update_from_flattened_dict({"generator.width": 8, "discriminator.width": 8})
    workdir = tmp_path_factory.mktemp("run")
    train.train_and_evaluate(config, workdir)
    return workdir


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "samples is a file": (lambda run: replace_by_file(run / "samples"), "samples is no folder"),
    "checkpoints is a file": (lambda run: replace_by_file(run / "checkpoints"), "checkpoints is no folder"),
    "config.json is a list": (lambda run: (run / "config.json").write_text("[]"), "config.json is no config"),
    "config.json is null": (lambda run: (run / "config.json").write_text("null"), "config.json is no config"),
    "config.json is cut": (lambda run: (run / "config.json").write_text('{"seed'), "config.json: "),
    "config.json is gone": (lambda run: (run / "config.json").unlink(), "but no config.json"),
    "metrics.jsonl is a folder": (lambda run: replace_by_folder(run / "metrics.jsonl"), "metrics.jsonl is no file"),
    "the checkpoints are damaged": (
        lambda run: [path.write_text("") for path in run.rglob("_METADATA")], "checkpoints is whole: 2: "),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_workdir_is_one_line_and_stays_as_it_is(command, tmp_path, finished_run, damage):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    do_damage, words = DAMAGES[damage]
    do_damage(workdir)
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    outcome = command(*DIGITS, f"--workdir={workdir}", "--config.num_steps=3")
    assert outcome.code == 2, outcome
    assert words in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.compilations == 0
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="ulimit")
def test_a_full_disk_ends_the_run_with_one_line_at_last(tmp_path):
    words = (
        f"train.py --config=configs/digits.py --config.num_steps=20 --workdir={tmp_path / 'run'}"
    )
    result = subprocess.run(
        ["bash", "-c", f"ulimit -f 40; exec {sys.executable} {words}"],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 1
    assert "train.py: no checkpoint could be written in" in result.stderr


def test_the_loop_is_one_call_ahead_of_the_device(make_config, tmp_path, monkeypatch):
    """So that a stop is prompt, and a run of two minutes takes no longer."""
    changes = dict.fromkeys(("log_every", "sample_every", "checkpoint_every", "eval_every"), 0)
    config = make_config("configs/digits.py:dcgan", changes | {"num_steps": 6})
    losses, original = [], train.train_steps

    def train_steps(*arguments):
        state, metrics = original(*arguments)
        losses.append(metrics["d_loss"])
        return state, metrics

    def stop():
        assert all(loss.is_ready() for loss in losses[:-1])
        return False

    monkeypatch.setattr(train, "train_steps", train_steps)
    train.train_and_evaluate(config, tmp_path, stop=stop)
    assert len(losses) == 6


def test_stopped_before_the_first_step_it_can_be_resumed(make_config, tmp_path):
    config = make_config(changes={"batch_size": 16, "num_steps": 2})
    before = train.train_steps._cache_size()
    state = train.train_and_evaluate(config, tmp_path, stop=lambda: True)
    assert int(state.step) == 0
    assert train.train_steps._cache_size() == before
    assert int(train.train_and_evaluate(config, tmp_path).step) == 2


def test_fewer_steps_than_there_are_is_nothing_to_do(make_config, tmp_path, capsys):
    config = make_config(changes={"batch_size": 16, "num_steps": 4})
    train.train_and_evaluate(config, tmp_path)
    config.num_steps = 2
    assert int(train.train_and_evaluate(config, tmp_path).step) == 4
    assert "Nothing to do: num_steps is 2" in capsys.readouterr().out


@pytest.mark.parametrize("steps_per_call", [1, None])
def test_the_loop_takes_penalties_lazily(make_config, tmp_path, steps_per_call):
    changes = {"batch_size": 16, "num_steps": 7, "log_every": 1, "lazy_every": 3}
    changes["steps_per_call"] = steps_per_call
    train.train_and_evaluate(make_config(changes=changes), tmp_path)
    assert [row["step"] for row in rows(tmp_path) if "train/r1" in row] == [3, 6]


def test_steps_per_call_is_resolved_once(make_config, tmp_path):
    """A loop where it gains, and on a resume what the run has begun with."""
    reports = dict.fromkeys(("log_every", "sample_every", "checkpoint_every"), 0)

    def steps_per_call(name, recipe, num_steps, value=None):
        changes = {"num_steps": num_steps, "batch_size": 8, "steps_per_call": value} | reports
        changes["checkpoint_every"] = 100
        config = make_config(f"configs/digits.py:{recipe}", changes)
        train.train_and_evaluate(config, tmp_path / name)
        assert config.steps_per_call == value  # the caller's own stays as it is
        return json.loads((tmp_path / name / "config.json").read_text())["steps_per_call"]

    assert steps_per_call("a", "goodfellow", 2) == starts.STEPS_PER_CALL
    assert steps_per_call("b", "dcgan", 2) == 1
    assert steps_per_call("c", "goodfellow", 2, 5) == 5
    assert steps_per_call("c", "goodfellow", 4) == 5
    with pytest.raises(app.UsageError, match="steps_per_call .5 there, 6 now"):
        steps_per_call("c", "goodfellow", 4, 6)
    path = tmp_path / "c" / "config.json"
    older = json.loads(path.read_text())
    del older["steps_per_call"]  # a run of before there was the field
    path.write_text(json.dumps(older))
    assert steps_per_call("c", "goodfellow", 6) == 1


def test_convolutions_are_looped_on_a_gpu(make_config, monkeypatch):
    config = make_config("configs/digits.py:dcgan")
    gan = gans.make_gan(config, data.Spec((8, 8, 1), 10))
    state = jax.eval_shape(lambda: gans.init(gan, config, jax.random.key(0)))
    assert starts.steps_per_call(gan, state) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert starts.steps_per_call(gan, state) == starts.STEPS_PER_CALL


def test_the_seed_is_of_weights_latents_and_order(make_config, tmp_path, monkeypatch):
    orders: dict[str, list] = {}
    keys: dict[str, np.ndarray] = {}
    make_indices = data.make_indices
    changes = {"batch_size": 16, "num_steps": 2, "log_every": 1}

    def train_with(seed: int, name: str) -> None:
        def spy(key, *arguments):
            indices = make_indices(key, *arguments)
            keys[name] = np.asarray(jax.random.key_data(key))
            orders[name] = [indices(step) for step in range(2)]
            return indices

        monkeypatch.setattr(data, "make_indices", spy)
        train.train_and_evaluate(make_config(changes=changes | {"seed": seed}), tmp_path / name)

    for seed, name in ((1, "first"), (1, "again"), (2**32 - 1, "other")):
        train_with(seed, name)
    assert_same_run(tmp_path / "first", tmp_path / "again")
    np.testing.assert_array_equal(orders["first"], orders["again"])
    assert (np.array(orders["first"]) != orders["other"]).any()
    first, other = (runs.read_networks(tmp_path / name) for name in ("first", "other"))
    assert (keys["first"] != first["key"]).any()  # epoch e would draw as step e does
    kernels = [state["generator"]["params"]["Dense_0"]["kernel"] for state in (first, other)]
    assert (kernels[0] != kernels[1]).any()


def test_pictures_are_of_the_average(make_config, tmp_path):
    """An average that hardly moves draws the first picture again, one without memory does not."""
    for half_life, same in ((1e12, True), (0.0, False)):
        changes = {
            "batch_size": 64,
            "num_steps": 30,
            "sample_every": 30,
            "ema_half_life": half_life,
        }
        train.train_and_evaluate(make_config(changes=changes), tmp_path / str(half_life))
        first, last = (
            np.asarray(Image.open(runs.sample_path(tmp_path / str(half_life), step))).astype(int)
            for step in (0, 30)
        )
        assert (abs(first - last).max() <= 1) == same


@pytest.mark.parametrize("dataset", ["ring", "grid"])
def test_toys_train_and_are_drawn(make_config, tmp_path, dataset):
    changes = {"dataset": dataset, "batch_size": 64, "num_steps": 20, "generator.width": 16}
    state = train.train_and_evaluate(make_config(changes=changes), tmp_path)
    assert int(state.step) == 20
    assert picture_size(runs.sample_path(tmp_path, 20)) == (512, 512)


def test_balanced_sampling_in_a_run(make_config, tmp_path, monkeypatch):
    for name, colour, num in (("black", 0, 60), ("white", 255, 4)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(num):
            Image.new("L", (8, 8), colour).save(tmp_path / "images" / name / f"{i}.png")
    seen = []
    train_steps = train.train_steps

    def spy(gan, state, batches, *rest):
        seen.append(np.asarray(batches["images"][:num]).mean())
        return train_steps(gan, state, batches, *rest)

    monkeypatch.setattr(train, "train_steps", spy)
    for balanced, expected in ((True, 0.5), (False, 4 / 64)):
        seen.clear()
        changes = {"balanced": balanced, "batch_size": 32, "num_steps": 8}
        changes |= {"dataset": f"folder:{tmp_path / 'images'}"}
        train.train_and_evaluate(make_config(changes=changes), tmp_path / str(balanced))
        assert np.mean(seen) / 255 == pytest.approx(expected)


@pytest.mark.slow
def test_digits_are_learnt(make_config, tmp_path):
    """The generator's mean and spread, pixel by pixel, come near the data's."""
    config = make_config(changes={"num_steps": 1_500, "log_every": 500, "checkpoint_every": 0})
    dataset, gan, _ = starts.prepare(config)
    real = dataset.images.reshape(len(dataset.images), -1) / 255

    def distance(state: gans.GanState) -> float:
        latents = gans.draw_latents(gan, jax.random.key(5), 1_000)
        fake = np.asarray(train.sample(gan, state.average, latents)).reshape(1_000, -1) / 255
        return float(
            np.abs(fake.mean(0) - real.mean(0)).mean() + np.abs(fake.std(0) - real.std(0)).mean()
        )

    before = distance(gans.init(gan, config, jax.random.key(0)))
    after = distance(train.train_and_evaluate(config, tmp_path))
    assert before > 0.3
    assert after < 0.1


@pytest.mark.slow
def test_real_mnist_trains(command, tmp_path, tfds_data):
    outcome = command(
        "train.py", "--config=configs/mnist.py:goodfellow", "--config.num_steps=300",
        f"--workdir={tmp_path}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert rows(tmp_path)[-1]["images"] == 300 * 128
    assert np.isfinite(rows(tmp_path)[-1]["train/g_loss"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")))
def test_every_config_page_makes_a_gan(path):
    if path.name in ("default.py", "recipes.py"):
        return
    from configs import recipes

    for recipe in recipes.RECIPES:
        config = cli.load_config(f"{path}:{recipe}")
        shape = {"digits": (8, 8, 1), "cifar10": (32, 32, 3), "ring": (2,), "grid": (2,)}
        spec = data.Spec(shape.get(config.dataset, (28, 28, 1)), 10)
        if recipe != "dcgan" or spec.kind == "image":
            gans.make_gan(config, spec)

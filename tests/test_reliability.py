"""Kills: a run that SIGKILL has ended, anywhere and again and again, ends with the bits of one left alone.

`make test-long` kills each of KINDS twenty times and more; docs/reliability.md has the figures.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from test_sweep import table
from test_train import CARRYING, assert_same_run, rows, wait_for

import runs
from checkpoints import Checkpoints

# Runs train.py or sweep.py, which stops for good where the phase that is named begins.
PAUSING = """
import runpy, sys, time
import checkpoints, runs, scores, starts, train

script, phase, mark = sys.argv[1:4]
sys.argv[:4] = [script]

def pausing(function, number=1):
    calls = iter(range(1, 1_000_000))
    def paused(*arguments, **settings):
        if next(calls) == number:
            open(mark, "w").close()
            time.sleep(3600)
        return function(*arguments, **settings)
    return paused

if phase == "checkpoint":
    checkpoints.Checkpoints._write_hashes = pausing(checkpoints.Checkpoints._write_hashes)
elif phase == "save":
    checkpoints.Checkpoints.save = pausing(checkpoints.Checkpoints.save, 2)
elif phase == "evaluation":
    scores.evaluate = pausing(scores.evaluate)
elif phase == "picture":
    runs.Log._draw = pausing(runs.Log._draw, 2)
elif phase == "row":
    starts.find_best = pausing(starts.find_best, 3)
elif phase.startswith("step"):
    train.next_steps = pausing(train.next_steps, int(phase.split()[1]))

if script == "train.py":  # the module that is changed above
    train.cli.run(train.main, takes_config=True)
else:
    runpy.run_path(script, run_name="__main__")
"""
# Between two steps, and where the next one begins the second epoch within itself.
PHASES = ("checkpoint", "evaluation", "picture", "row", "step 3", "step 41")
SMALL = {
    "batch_size": 16,
    "num_steps": 200,
    "log_every": 10,
    "sample_every": 40,
    "checkpoint_every": 20,
    "eval_every": 30,
    "eval_samples": 50,
    "steps_per_call": 1,
}
NETWORKS = {"generator.width": 8, "discriminator.width": 8}
KINDS = {
    "what is carried": ("train.py", "digits.py:mescheder", {**CARRYING, "ema_half_life": 100}, []),
    "dcgan": ("train.py", "digits.py:dcgan", NETWORKS, []),
    "sngan": ("train.py", "digits.py:sngan", NETWORKS, []),
    "wgan": ("train.py", "digits.py:wgan", {}, []),
    "r3gan": ("train.py", "digits.py:r3gan", {"num_steps": 80}, []),
    "together": ("train.py", "digits.py:mescheder", {"population": 3}, ["--together"]),
    "apart": ("train.py", "digits.py:mescheder", {"population": 3, "num_steps": 100}, []),
    "grid": (
        "sweep.py",
        "digits.py:mescheder",
        {"num_steps": 100},
        ["--grid=config.penalties.r1=1,3", "--seeds=2", "--together"],
    ),
    "search": (
        "sweep.py",
        "digits.py:mescheder",
        {"num_steps": 100},
        ["--search=config.penalties.r1=log:0.1:10", "--trials=3", "--noprune"],
    ),
}


def words(kind, workdir):
    script, page, changes, more = KINDS[kind]
    fields = [f"--config.{name}={value}" for name, value in (SMALL | changes).items()]
    return [script, f"--config=configs/{page}", *fields, *more, f"--workdir={workdir}"]


def start(arguments, phase="none", mark="none"):
    script, *rest = arguments
    command = [sys.executable, "-u", "-c", PAUSING, script, phase, str(mark), *rest]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill(process):
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def end(arguments):
    """Runs it to its end; the seconds that it trained."""
    process = start(arguments)
    began = begin(process)
    out = process.stdout.read()
    assert process.wait() == 0, out
    return time.monotonic() - began


def begin(process):
    """Waits until it trains; the time then."""
    for line in process.stdout:
        if line.startswith(("Training in", "Resuming in")):
            break
    return time.monotonic()


def assert_same(whole, killed):
    places = sorted(path.parent.relative_to(whole) for path in whole.rglob("config.json"))
    runs_of = [place for place in places if (whole / place / "checkpoints").is_dir()]
    assert runs_of
    for place in runs_of:
        assert_same_run(whole / place, killed / place)
        steps = [row["step"] for row in rows(killed / place)]
        assert steps == sorted(set(steps))
    if (whole / "sweep.csv").exists():
        first, second = ([{**row, "seconds": 0} for row in table(path)] for path in (whole, killed))
        assert first == second
    elif (whole / "metrics.jsonl").exists():
        first, second = ([{**row, "seconds": 0} for row in rows(path)] for path in (whole, killed))
        assert first == second


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(megabytes): a file system of that size; called again it has another."""
    place = tmp_path / "disk"
    place.mkdir()

    def make(megabytes, more=()):
        words = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            ",".join([f"size={megabytes}m", *more]),
            "tmpfs",
            place,
        ]
        if subprocess.run(words, stderr=subprocess.DEVNULL).returncode:
            pytest.skip("this user may not mount a small disk")
        return place

    yield make
    subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_leaves_the_last_checkpoint_whole(tmp_path, small_disk):
    """It ends with one line; with room again the same command ends with the bits of another disk."""
    disk = small_disk(2)
    arguments = ["train.py", "--config=configs/digits.py", "--config.batch_size=16"]
    arguments += [f"--config.{player}.width=32" for player in ("generator", "discriminator")]
    arguments += ["--config.log_every=20", "--config.checkpoint_every=20", "--config.eval_every=0"]
    arguments += ["--config.sample_every=20", "--config.num_steps=600"]
    full = start([*arguments, f"--workdir={disk}/run"])
    out, _ = full.communicate(timeout=300)
    assert full.returncode == 1, out
    assert "Traceback" not in out
    *_, line = lines = [line for line in out.splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1
    assert "No space left on device" in line
    checkpoints = Checkpoints(disk / "run")
    saved = checkpoints.latest_step()
    checkpoints.close()
    assert 0 < saved < 600
    small_disk(100, ["remount"])
    end([*arguments, f"--workdir={disk}/run"])
    end([*arguments, f"--workdir={tmp_path}/whole"])
    assert_same_run(tmp_path / "whole", disk / "run")


AUDITED = """
import runpy, sys
def refuse(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError(f"unpickled: {arguments}")
sys.addaudithook(refuse)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_run_is_read_without_unpickling(tmp_path):
    """By a resume, evaluate.py and sample.py, whatever library does it: Python says so itself."""
    run = [*words("what is carried", tmp_path), "--config.num_steps=40"]
    end(run)
    commands = [[*run[:-1], "--config.num_steps=60"]]
    commands += [["evaluate.py", f"--workdir={tmp_path}"], ["sample.py", f"--workdir={tmp_path}"]]
    for command in commands:
        subprocess.run([sys.executable, "-c", AUDITED, *command], cwd=ROOT, check=True)
    assert rows(tmp_path)[-1]["step"] == 60


OLDER = ROOT / "tests" / "fixtures" / "run_2026_11"  # of revision 35dd9ab: 40 steps, and the 20th


@pytest.fixture
def older_run(tmp_path):
    """A run of an older revision, of which the last checkpoint is missing."""
    shutil.copytree(OLDER, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_of_an_older_revision_goes_on(older_run, command):
    """With the numbers that it had there."""
    there = rows(older_run)
    fields = json.loads((older_run / "config.json").read_text())
    assert "on_nan" not in fields  # of a later revision
    arguments = [f"--config.{k}.width=8" for k in ("generator", "discriminator")]
    arguments += ["--config.batch_size=16", "--config.num_steps=40", "--config.ema_half_life=100"]
    arguments += [f"--config.{k}=0" for k in ("sample_every", "eval_every")]
    arguments += ["--config.log_every=10", "--config.checkpoint_every=20", f"--workdir={older_run}"]
    outcome = command("train.py", "--config=configs/digits.py:mescheder", *arguments)
    assert outcome.code == 0, outcome.err
    assert "from step 20" in outcome.out
    here = rows(older_run)
    assert [row["step"] for row in here] == [10, 20, 30, 40]
    assert here[:2] == there[:2]
    for mine, its in zip(here[2:], there[2:], strict=True):
        its["seconds"] = mine["seconds"]
        assert mine == pytest.approx(its, rel=0.02, abs=0.02)  # other settings of XLA
    outcome = command("sample.py", f"--workdir={older_run}")
    assert outcome.code == 0, outcome.err


def test_a_run_that_does_not_fit_any_more_says_what_has_changed(older_run, command):
    path = older_run / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"forgotten": 1}))
    outcome = command("sample.py", f"--workdir={older_run}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "the field forgotten does not exist" in outcome.err
    fields["generator"]["width"] = 9
    path.write_text(json.dumps(fields))
    outcome = command("sample.py", f"--workdir={older_run}")
    assert outcome.code == 2
    assert "checkpoints/20 cannot be read" in outcome.err.splitlines()[-1]
    assert "shape" in outcome.err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "times"),
    [("what is carried", 1), *(pytest.param(kind, 20, marks=pytest.mark.long) for kind in KINDS)],
)
def test_it_is_killed_and_started_again(tmp_path, kind, times):
    """In every phase once, then so many times at random moments; then it is left alone."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    longer = [f"--config.num_steps={times * 50}"] if times > 1 else []
    seconds = end(words(kind, whole) + longer)
    arguments = words(kind, killed) + longer
    phases = []
    for phase in PHASES:
        mark = tmp_path / phase
        process = start(arguments, phase, mark)
        wait_for(lambda: mark.exists() or process.poll() is not None, process)  # noqa: B023
        if process.poll() is None:
            kill(process)
            phases.append(phase)
    moments, survived = random.Random(kind), 0
    for _ in range(times):
        process = start(arguments)
        begin(process)
        try:
            process.wait(timeout=moments.uniform(0, 2 * seconds / (times + 1)))
            process.stdout.close()
        except subprocess.TimeoutExpired:
            kill(process)
            survived += 1
    end(arguments)
    assert_same(whole, killed)
    print(f"{kind}: {seconds:.0f} s of training, killed in {phases} and {survived} times at random")
    if kind == "what is carried":
        assert len(phases) == len(PHASES)


@pytest.mark.long
def test_a_gpu_gives_the_same_bits(tmp_path):
    """With --deterministic, in two processes; beside it what it costs."""
    words = [sys.executable, "train.py", "--config=configs/digits.py:dcgan"]
    words += ["--config.num_steps=2000", "--config.generator.width=64", "--config.eval_every=0"]
    words += ["--config.resolution=16"]  # convolutions of few channels and of many
    environment = {k: value for k, value in os.environ.items() if k != "JAX_PLATFORMS"}
    probe = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    found = subprocess.run(probe, env=environment, capture_output=True, text=True, check=True)
    if found.stdout.strip() != "gpu":
        pytest.skip("no GPU")
    for name, flags in [
        ("once", ["--deterministic"]),
        ("again", ["--deterministic"]),
        ("free", []),
    ]:
        own = [*words, *flags, f"--workdir={tmp_path / name}"]
        subprocess.run(own, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = [row["seconds"] for row in runs.read_metrics(tmp_path / name)]
        print(f"{name}: {seconds[-1] - seconds[0]:.1f} s between the first row and the last")
    assert_same_run(tmp_path / "once", tmp_path / "again")

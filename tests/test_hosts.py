"""Several processes: what they train together is what one trains, whatever becomes of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image
from test_reliability import PAUSING
from test_train import wait_for

import hosts
import runs

TRAIN = (
    "train.py",
    "--config=configs/digits.py:mescheder",
    *(f"--config.{name}={value}" for name, value in {
        "generator.width": 32, "discriminator.width": 32, "batch_size": 64, "log_every": 10,
        "eval_every": 40, "checkpoint_every": 10, "sample_every": 40, "steps_per_call": 10,
    }.items()),
)  # fmt: skip
TIMEOUT = 60  # seconds until a silent process is gone


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def start(
    workdir: Path,
    words: list[str],
    num_devices: int,
    variables: dict[str, str] | None = None,
    script: Sequence[str] = TRAIN,
) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(num_devices)}
    environment |= variables or {}
    return subprocess.Popen(
        [sys.executable, *script, f"--workdir={workdir}", *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def start_two(
    workdir, *words, ids=(0, 1), own=((), ()), timeout=TIMEOUT, scripts=(TRAIN, TRAIN, TRAIN)
):
    """Two processes of two devices each."""
    together = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", *words]
    together.append(f"--host_timeout={timeout}")
    return [
        start(workdir, [*together, f"--process_id={i}", *mine], num_devices=2, script=script)
        for i, mine, script in zip(ids, own, scripts)
    ]


def ends(processes, seconds=120):
    """Exit code and error output of each: none is left, whatever happens."""
    with ExitStack() as stack:
        for process in processes:
            stack.callback(process.kill)
        found = [process.communicate(timeout=seconds) for process in processes]
        return [(process.returncode, err) for process, (_, err) in zip(processes, found)]


def wait_for_row(workdir, step, processes):
    for _ in range(600):
        if any(row["step"] >= step for row in runs.read_metrics(workdir)):
            return
        assert all(process.poll() is None for process in processes), ends(processes)
        time.sleep(0.1)
    raise AssertionError(ends(processes, 1))


def test_a_mistake_of_a_process_alone_keeps_its_class():
    """A sweep waits for a folder that is in use, and ends for other mistakes."""
    with pytest.raises(runs.InUse), hosts.agreed():
        raise runs.InUse("another process trains there")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """80 steps by one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    [(code, err)] = ends([start(workdir, ["--config.num_steps=80"], num_devices=4)])
    assert code == 0, err
    return workdir


def assert_close_runs(one, other):
    ours, theirs = (runs.read_metrics(workdir) for workdir in (one, other))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    apart = 0.0
    for row, expected in zip(ours, theirs):
        row.pop("seconds"), expected.pop("seconds")
        assert row == pytest.approx(expected, rel=0.01, abs=0.01), row["step"]
        figures = [(x, expected[name]) for name, x in row.items() if isinstance(x, float)]
        apart = max(apart, *(abs(x - y) / max(1, abs(y)) for x, y in figures))
    print(f"every figure of {len(ours)} rows to {apart:.1e}")


@pytest.mark.slow
def test_one_is_killed_and_both_go_on(tmp_path, alone):
    """Equal to one process with four devices; then on, on one device."""
    workdir = tmp_path / "run"
    first, second = start_two(workdir, "--config.num_steps=1000000", timeout=15)
    wait_for_row(workdir, 20, [first, second])
    second.kill()
    begun = time.monotonic()
    (code, err), _ = ends([first, second])
    assert code == 1
    assert time.monotonic() - begun < 40
    [line] = [line for line in err.splitlines() if line.startswith("train.py:")]
    assert "another process has ended, or has been silent for 15 seconds" in line
    assert "Traceback" not in err
    assert "stack trace" not in err

    reached = runs.read_metrics(workdir)[-1]["step"]
    assert reached < 60, "too fast for the next steps"
    for code, err in ends(start_two(workdir, "--config.num_steps=60")):
        assert code == 0, err
    [(code, err)] = ends([start(workdir, ["--config.num_steps=80"], num_devices=1)])
    assert code == 0, err
    assert_close_runs(workdir, alone)
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == [
        f"step_{step:08d}.png" for step in (0, 40, 60, 80)
    ]


@pytest.mark.slow
def test_one_is_killed_while_the_other_waits_for_its_part_of_a_checkpoint(tmp_path):
    """Whose error is Orbax's, and may be of the network or of the file system."""
    mark = tmp_path / "mark"
    pausing = ["-c", PAUSING, "train.py", "save", str(mark), *TRAIN[1:]]
    first, second = start_two(
        tmp_path / "run", "--config.num_steps=1000000", timeout=15, scripts=(TRAIN, pausing)
    )
    with ExitStack() as stack:
        for process in (first, second):
            stack.callback(process.kill)
        wait_for(mark.exists, first)
        time.sleep(1)  # the first gets there, too
        second.kill()
        (code, err), _ = ends([first, second])
    assert code == 1, err
    [line] = err.splitlines()
    assert "another process has ended, or has been silent for 15 seconds" in line


@pytest.mark.slow
def test_a_signal_at_one_stops_all(tmp_path):
    """Two that Slurm has started."""
    workdir = tmp_path / "run"
    words = ["--config.num_steps=1000000", "--distributed", f"--host_timeout={TIMEOUT}"]
    job = {"JOB_ID": str(free_port()), "STEP_NODELIST": "localhost", "NTASKS": "2"}
    processes = []
    for i in "01":
        numbers = {**job, "PROCID": i, "LOCALID": i}
        variables = {f"SLURM_{name}": value for name, value in numbers.items()}
        processes.append(start(workdir, words, 2, variables))
    wait_for_row(workdir, 10, processes)
    processes[1].send_signal(signal.SIGTERM)
    for code, err in ends(processes):
        assert code == 128 + signal.SIGTERM, err
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    assert max(steps) == runs.read_metrics(workdir)[-1]["step"]


@pytest.mark.slow
def test_each_streams_its_share(tmp_path):
    """Of a folder's images; the run is that of one process with all of them in memory."""
    rng = np.random.default_rng(0)
    for i in range(100):
        place = tmp_path / "images" / f"class_{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(place / f"{i}.png")
    words = [f"--config.dataset=folder:{tmp_path}/images", "--config.num_steps=20"]
    words += ["--config.eval_every=0", "--config.batch_size=16"]
    processes = start_two(tmp_path / "two", *words, "--config.stream=True")
    alone = start(tmp_path / "one", [*words, "--config.stream=False"], num_devices=4)
    for code, err in ends([*processes, alone]):
        assert code == 0, err
    assert_close_runs(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_one_has_another_config(tmp_path):
    own = ((), ("--config.optimizer.generator.learning_rate=0.1",))
    for code, err in ends(start_two(tmp_path / "run", own=own)):
        assert code == 2, err
        assert err == "train.py: process 1 has another config than process 0\n"
    assert not (tmp_path / "run").exists()


def test_the_mistake_of_one_ends_all(tmp_path):
    own = ((), ("--config.loss=hinges",))
    for code, err in ends(start_two(tmp_path / "run", own=own)):
        assert code == 2, err
        assert re.fullmatch(r"train.py: process 1: .*hinge.*\n", err)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_not_all_come(tmp_path):
    [(code, err)] = ends(start_two(tmp_path / "run", ids=(1,), timeout=8))
    assert code == 1, err
    [line] = err.splitlines()
    assert "not all 2 processes have come to 127.0.0.1:" in line
    assert "within 8 seconds" in line


@pytest.mark.slow
def test_one_comes_twice(tmp_path):
    """Each ends; or one of the two does, where they came at once, and the others train."""
    workdir = tmp_path / "run"
    numbers = {"ids": (0, 1, 1), "own": ((), (), ()), "timeout": 15}
    processes = start_two(workdir, "--config.num_steps=1000000", **numbers)
    with ExitStack() as stack:
        for process in processes:
            stack.callback(process.kill)
        end = time.monotonic() + 60
        while time.monotonic() < end and any(process.poll() is None for process in processes):
            time.sleep(0.2)
        there = [process for process in processes if process.poll() is None]
        if there:
            assert len(there) == 2
            assert processes[0] in there
            steps = [row["step"] for row in runs.read_metrics(workdir)]
            wait_for_row(workdir, max(steps, default=0) + 10, there)
        for process in processes:
            if process not in there:
                err = process.communicate()[1]
                assert process.returncode == 1, err
                assert len(err.splitlines()) == 1, err
                assert "not all 2 processes have come" in err or "another process has ended" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_processes=2"], "are for --coordinator"),
        (["--coordinator=a:1", "--num_processes=2"], "needs --num_processes and --process_id"),
        (
            ["--coordinator=a", "--num_processes=2", "--process_id=0"],
            "--coordinator takes HOST:PORT, not 'a'",
        ),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2 of --num_processes=2: the first one is 0",
        ),
    ],
)
def test_a_mistake_is_one_line(command, tmp_path, words, message):
    outcome = command(*TRAIN, *words, f"--workdir={tmp_path}/run")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_the_manifest_is_one_of_kubernetes():
    validate = pytest.importorskip("kubernetes_validate")
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/scale.md").read_text(), re.DOTALL)
    service, job = yaml.safe_load_all(text)
    for document in (service, job):
        validate.validate(document, validate.latest_version(), strict=True)
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert service["metadata"]["name"] == pod["subdomain"] == job["metadata"]["name"]
    assert f"--coordinator={job['metadata']['name']}-0.{pod['subdomain']}:" in container["args"][0]
    assert f"--num_processes={job['spec']['completions']} " in container["args"][0]

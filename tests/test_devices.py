"""Many devices: what they compute together is what one computes with the whole batch."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, import_script
from PIL import Image
from test_gan import assert_close, assert_same_descent

import data
import devices
import gan as gans
import layers
import runs
import train
from benchmarks.workloads import summed
from configs.recipes import RECIPES

RTOL = 1e-3  # of a step's gradients, to the largest number of each; of losses
RATE = 0.01
NOISE = 1e-6  # of a gradient that is zero: terms of about 1 are added up in another order
BATCH = 16
SIZES = {
    "mlp": {"width": 8},
    "dcgan": {"width": 8},
    "resnet": {"width": 8},
    "r3gan": {"widths": (8,), "blocks": 1},
}
USUAL = ("goodfellow", "pacgan", "acgan", "ada", "lecam", "r3gan")
pytestmark = pytest.mark.usefixtures("every_device")


def start(make_config, recipe, **changes):
    """A config of small networks that descend by SGD, so that a step shows its gradients."""
    config = make_config(f"configs/digits.py:{recipe}", {"batch_size": BATCH, "steps_per_call": 1})
    for player in ("generator", "discriminator"):
        config[player].update(SIZES[config[player].name])
        config.optimizer[player].name, config.optimizer[player].learning_rate = "sgd", RATE
    config.update_from_flattened_dict(changes)
    dataset = data.load(config)
    gan = gans.make_gan(config, dataset.spec)
    return config, dataset, gan, gans.init(gan, config, jax.random.key(0))


def step_on(num, config, dataset, gan, state, shard=False):
    """One step on `num` devices: the state after it, metrics, and the compiled program."""
    mesh = devices.make_mesh(num)
    examples = {"images": dataset.images, "labels": dataset.labels}
    shape = (1, *gans.batch_shape(gan))
    indices = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    examples = devices.copy_to_each(examples, mesh)
    take = jax.jit(data.take, out_shardings=devices.along(mesh, axis=3))
    assert summed(take.lower(examples, indices).compile().as_text()) == (0, 0)
    batches = take(examples, indices)
    state = jax.tree.map(jnp.copy, state)  # what is put where it lies is donated
    state = jax.device_put(state, devices.shardings(mesh, state, shard))
    with devices.used(mesh):
        lowered = train.train_steps.lower(gan, state, batches, shard=shard)
        program = lowered.compile()
        after, metrics = program(state, batches)
    return after, metrics, program


def furthest(before, after, expected):
    """Of gradients, the largest difference, to the largest number of its own or 1e-3 of all."""
    found = []
    for player in ("generator", "discriminator"):
        a, b, start = (getattr(state, player).params for state in (after, expected, before))
        ours, theirs = (
            [
                np.subtract(*map(np.asarray, pair))
                for pair in zip(*map(jax.tree.leaves, (moved, start)))
            ]
            for moved in (a, b)
        )
        least = 1e-3 * max(abs(x).max() for x in theirs)
        found += [abs(x - y).max() / max(abs(y).max(), least) for x, y in zip(ours, theirs)]
    return max(found)


def check_step(num, make_config, recipe, **changes):
    config, dataset, gan, state = start(make_config, recipe, **changes)
    expected, expected_metrics, _ = step_on(1, config, dataset, gan, state)
    after, metrics, program = step_on(num, config, dataset, gan, state)
    assert len(after.key.devices()) == num
    apart = furthest(state, after, expected)
    pairs = [(float(metrics[x]), float(expected_metrics[x])) for x in ("d_loss", "g_loss")]
    losses = max(abs(x - y) / max(1, abs(y)) for x, y in pairs)
    print(f"{recipe}, {num} devices: gradients to {apart:.1e}, losses to {losses:.1e}")
    assert_same_descent(state, after, expected, RTOL, RATE * NOISE)
    others = [
        (metrics, expected_metrics),
        (after.average, expected.average),
        (after.aux, expected.aux),
        (after.generator.variables, expected.generator.variables),
        (after.discriminator.variables, expected.discriminator.variables),
    ]
    for ours, theirs in others:  # of numbers that are about 1, or noise
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(one, other, rtol=RTOL, atol=1e-5)
    check_traffic(program.as_text(), state)


def check_traffic(text, state):
    """Sums over the devices are all there is: of gradients, of each pass apart, and statistics."""
    _, summed_bytes = summed(text)
    players = state.generator.params, state.discriminator.params
    gradients = sum(4 * x.size for x in jax.tree.leaves(players))
    assert gradients <= summed_bytes < 6 * gradients


@pytest.mark.parametrize(
    ("recipe", "num"),
    [
        *((recipe, 8) for recipe in USUAL),
        *(
            pytest.param(recipe, num, marks=pytest.mark.long)
            for recipe in RECIPES
            for num in (2, 8)
            if (recipe, num) not in {(usual, 8) for usual in USUAL}
        ),
    ],
)
def test_a_step_is_that_of_one_device(make_config, recipe, num):
    check_step(num, make_config, recipe)


def test_a_batch_is_in_parts_on_one_device_alone(make_config, monkeypatch):
    """The parts in which a CPU sums a kernel's gradient would be moved between devices."""
    monkeypatch.setattr(layers, "CACHE", 1.0)
    config, dataset, gan, state = start(make_config, "dcgan", batch_size=32)
    _, _, program = step_on(8, config, dataset, gan, state)
    check_traffic(program.as_text(), state)


def test_groups_of_minibatch_deviation_lie_across_devices(make_config):
    changes = {"discriminator.minibatch_stddev": 4, "discriminator.norm": "none"}
    check_step(8, make_config, "dcgan", **changes)


RUN = (
    "train.py",
    "--config=configs/digits.py:mescheder",
    *(f"--config.{name}={value}" for name, value in {
        "generator.width": 32, "discriminator.width": 32, "batch_size": 64, "log_every": 20,
        "eval_every": 100, "checkpoint_every": 20, "sample_every": 100, "steps_per_call": 20,
    }.items()),
)  # fmt: skip


@pytest.fixture(scope="module")
def run_alone(tmp_path_factory):
    """200 steps on one device, in a process of its own."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    words = [sys.executable, *RUN, "--config.num_steps=200", f"--workdir={workdir}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True)
    return workdir


def assert_close_runs(one, other):
    ours, theirs = (runs.read_metrics(workdir) for workdir in (one, other))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, expected in zip(ours, theirs):
        row.pop("seconds"), expected.pop("seconds")
        assert row == pytest.approx(expected, rel=0.02, abs=0.02), row["step"]


@pytest.mark.slow
def test_a_run_on_eight_reaches_the_same_scores(command, tmp_path, run_alone, caplog):
    with jax.log_compiles():
        outcome = command(*RUN, "--config.num_steps=200", f"--workdir={tmp_path}/run")
    assert outcome.code == 0, outcome.err
    compiled = [text for text in caplog.messages if "XLA compilation of jit(train_steps)" in text]
    assert len(compiled) == 1
    assert_close_runs(tmp_path / "run", run_alone)


@pytest.mark.slow
def test_a_run_goes_on_on_fewer_devices(command, tmp_path, run_alone):
    for num, steps in ((8, 40), (2, 100), (1, 140), (4, 200)):
        words = [f"--config.devices={num}", f"--config.num_steps={steps}"]
        outcome = command(*RUN, *words, f"--workdir={tmp_path}/run")
        assert outcome.code == 0, outcome.err
    assert_close_runs(tmp_path / "run", run_alone)


def test_a_split_state_takes_the_same_step(make_config):
    config, dataset, gan, state = start(make_config, "mescheder", **{
        "optimizer.generator.name": "adam", "optimizer.discriminator.name": "adam",
        "generator.width": 64, "discriminator.width": 64, "ema_half_life": 100.0,
    })  # fmt: skip
    after, metrics, _ = step_on(8, config, dataset, gan, state, shard=True)
    expected, expected_metrics, _ = step_on(8, config, dataset, gan, state)
    assert_close(metrics, expected_metrics, RTOL)
    assert_close(after, expected, RTOL)
    held = {}
    for name, each in (("split", after), ("whole", expected)):
        leaves = jax.tree.leaves(each.replace(key=None))
        held[name] = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        counted = devices.bytes_on_each(each.replace(key=None), 8, shard=name == "split")
        assert held[name] == counted
    # Of five copies of the parameters, two of them moments of each player and one G's average.
    assert held["split"] < 0.5 * held["whole"]


@pytest.mark.slow
def test_a_split_state_is_saved_and_goes_on(command, tmp_path, run_alone):
    words = [*RUN, f"--workdir={tmp_path}/run"]
    assert command(*words, "--config.num_steps=100", "--config.shard_state=True").code == 0
    assert command(*words, "--config.num_steps=200", "--config.devices=2").code == 0
    assert_close_runs(tmp_path / "run", run_alone)


def test_a_page_may_have_a_batch_for_others(command, tmp_path, monkeypatch):
    """And what many devices have trained is scored on one, and drawn on all or one."""
    words = ["--config.devices=3", "--config.batch_size=48", "--config.num_steps=20"]
    assert command(*RUN[:2], *words, f"--workdir={tmp_path}/run").code == 0
    drawn = []
    for num in (8, 1):
        monkeypatch.setattr(devices, "available", lambda num=num: jax.local_devices()[:num])
        out = tmp_path / f"{num}.png"
        assert command("sample.py", f"--workdir={tmp_path}/run", f"--out={out}").code == 0
        drawn.append(np.asarray(Image.open(out), np.float32))
    assert np.abs(drawn[0] - drawn[1]).mean() < 0.5  # of 255
    outcome = command("evaluate.py", f"--workdir={tmp_path}/run")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config.batch_size=12"],
            "8 devices do not divide the 12 examples or packs of a (micro-)batch",
        ),
        (["--config.batch_size=12"], "--config.devices=4 does"),
        (["--config.packing=32"], "8 devices do not divide the 4 examples or packs"),
        (["--config.devices=9"], "devices=9: there are 8"),
        (["--config.devices=0"], "devices must be at least 1, not 0"),
        (["--config.devices=1", "--config.shard_state=True"], "one device has the whole state"),
    ],
)
def test_a_mistake_is_one_line(command, tmp_path, words, message):
    outcome = command(*RUN[:2], *words, f"--workdir={tmp_path}/run")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.compilations == 0
    assert not (tmp_path / "run").exists()


def test_describe_says_what_a_device_holds(command):
    words = ["train.py", "--config=configs/digits.py:mescheder", "--describe"]
    whole, split = (command(*words, *more).out for more in ([], ["--config.shard_state=True"]))
    found = [
        re.search(r"8 devices: ([\d.,]+) MB of state on each", out)[1] for out in (whole, split)
    ]
    assert float(found[1]) < 0.6 * float(found[0])


@pytest.mark.parametrize("recipe", ["goodfellow", "dcgan"])
def test_micro_batches_are_split_too(make_config, recipe):
    check_step(8, make_config, recipe, batch_size=32, accumulate=2)


def test_on_the_cpu_beside_another_device(monkeypatch):
    first, second = jax.local_devices()[:2]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.default_device(second):
        with devices.on_cpu():
            assert jnp.zeros(()).devices() == {first}
        assert jnp.zeros(()).devices() == {second}
        monkeypatch.setattr(jax, "local_devices", MagicMock(side_effect=RuntimeError("no CPU")))
        with devices.on_cpu():  # JAX_PLATFORMS=cuda
            assert jnp.zeros(()).devices() == {second}


def test_what_links_allow_is_calculated(monkeypatch):
    """A ring of n devices sends 2 (n - 1) / n of the bytes, and each sum has its delay."""
    scaling = import_script("scaling", "benchmarks")
    place = scaling.Place(num=4, rate=1e9, delay=1e-3, source="")
    monkeypatch.setattr(scaling, "PLACES", {"four": place})
    monkeypatch.setattr(scaling, "ON_ONE", {"dcgan": (0.16, 100)})
    row = scaling.calculated({"dcgan": (10, 20_000_000)}).splitlines()[-1]
    # 40 ms of 160 are computed; 30 MB are sent in 30 ms, 10 sums wait for 1 ms each.
    assert row == "| dcgan | four | 100 | 40 | 40 | 50% | 900 |"


def test_a_benchmark_steps_on_two_devices(tfds_data):
    scaling = import_script("scaling", "benchmarks")
    program, state, batches = scaling.make_step("mlp", 2)
    assert len(jax.tree.leaves(program(state, batches))[0].devices()) == 2
    sums, total = summed(program.as_text())
    assert sums >= 1
    assert total > 4 * sum(leaf.size for leaf in jax.tree.leaves(state.generator.params))


@pytest.mark.slow
def test_computing_blocks_anew_is_counted():
    remat = import_script("remat", "benchmarks")
    counts = []
    for on in (False, True):
        config = remat.make_config("r3gan", 8)
        config.generator.remat = config.discriminator.remat = on
        gan = gans.make_gan(config, data.Spec((28, 28, 1), None))
        counts.append(remat.counted(gan, config)[1])
    (flops, *kept), (more_flops, *kept_less) = counts
    assert flops < more_flops < 1.5 * flops
    assert all(less < 0.5 * usual for less, usual in zip(kept_less, kept))

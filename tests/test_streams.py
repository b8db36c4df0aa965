"""Streamed runs see the batches of runs in memory, bit for bit, and what goes wrong is named."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import app
from conftest import ROOT
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image
from test_data import Unusual

import checkpoints
import data
import devices
import encoded
import streams
import tfds_builders
import train

KEY = jax.random.key(5)
SMALL = ("generator.width=8", "discriminator.width=8", "batch_size=8", "generator.depth=1")
ROWS = ("num_steps=9", "log_every=3", "sample_every=9", "eval_every=6", "checkpoint_every=4")


@pytest.fixture
def folder(tmp_path):
    """24 images of noise, of two classes of 16 and 8."""
    rng = np.random.default_rng(0)
    for i in range(24):
        file = tmp_path / "images" / f"{'a' if i < 16 else 'b'}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(file)
    return tmp_path / "images"


@pytest.fixture
def run(command, folder, tmp_path):
    """run('name', 'stream=True', ...): a run of the folder's images; its rows without seconds."""

    def run(name: str, *changes: str, recipe: str = "goodfellow", code: int = 0) -> list[dict]:
        words = (f"dataset=folder:{folder}", *changes)
        outcome = command(
            "train.py",
            f"--config=configs/digits.py:{recipe}",
            f"--workdir={tmp_path / name}",
            *(f"--config.{word}" for word in words),
        )
        assert outcome.code == code, outcome.err
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

    return run


def make_batches(dataset: data.Dataset, shape=(2, 1, 4), num_steps=20, **changes):
    keys = [np.asarray(jax.random.key_data(KEY))]
    labelled = dataset.labels is not None
    batches = streams.Batches(dataset, keys, False, shape, False, labelled, num_steps)
    return dataclasses.replace(batches, **changes)


def of_batches(num: int) -> NamedSharding:
    return NamedSharding(devices.make_mesh(num), PartitionSpec(None, None, None, "data"))


# Images that are decoded when they are indexed


def check_like_an_array(streamed, held):
    assert isinstance(streamed, encoded.Images)
    assert isinstance(held, np.ndarray)
    assert (len(streamed), streamed.shape, streamed.dtype) == (len(held), held.shape, held.dtype)
    assert (streamed.nbytes, streamed.itemsize) == (held.nbytes, held.itemsize)
    for which in (slice(2, 9), slice(-3, None), 4, np.array([[3, 0], [11, 3]]), np.empty(0, int)):
        np.testing.assert_array_equal(streamed[which], held[which])
    for which in (len(held), np.array([-1])):
        with pytest.raises(IndexError):
            streamed[which]


def test_a_streamed_folder_reads_like_an_array(folder):
    streamed, held = (data.folder(folder, None, stream) for stream in (True, False))
    check_like_an_array(streamed.images, held.images)
    np.testing.assert_array_equal(np.asarray(streamed.images), held.images)
    np.testing.assert_array_equal(streamed.labels, held.labels)
    assert streamed.spec == held.spec == ((8, 8, 1), 2)
    assert (streamed.streamed, held.streamed) == (True, False)
    Image.new("RGB", (30, 20), (9, 200, 7)).save(folder / "b" / "wide.jpg")
    streamed, held = (data.folder(folder, 16, stream) for stream in (True, False))
    check_like_an_array(streamed.images, held.images)
    assert streamed.spec == ((16, 16, 3), 2)


def test_streamed_records_read_like_an_array(tfds_data):
    streamed, held = (
        data.tfds_images("mnist", str(tfds_data), None, "test", stream) for stream in (True, False)
    )
    check_like_an_array(streamed.images, held.images)
    np.testing.assert_array_equal(streamed.labels, held.labels)
    assert streamed.spec == held.spec == ((28, 28, 1), 10)


def test_too_much_for_the_memory_is_streamed_by_itself(folder, monkeypatch, make_config):
    name = {"dataset": f"folder:{folder}", "batch_size": 2}
    assert not data.load(make_config(changes=name)).streamed
    monkeypatch.setattr(data, "memory", lambda: 24 * 64 * 4 - 1)  # of a device
    assert data.load(make_config(changes=name)).streamed
    assert not data.load(make_config(changes=name | {"stream": False})).streamed
    assert not data.load(make_config()).streamed  # digits
    monkeypatch.setattr(data, "memory", lambda: 24 * 64 * 4)
    assert not data.load(make_config(changes=name)).streamed
    monkeypatch.setattr(data, "host_memory", lambda: 24 * 64 - 1)
    assert data.load(make_config(changes=name)).streamed
    with pytest.raises(app.UsageError, match="at resolution=8 takes 0 GiB"):
        data.load(make_config(changes=name | {"stream": False}))


# A folder's index


@pytest.fixture
def count(monkeypatch):
    """How often folders were listed, headers read and files decoded."""
    counts = {"scandir": 0, "_header": 0, "_read": 0}

    def counting(module, name):
        function = getattr(module, name)

        def counted(*arguments):
            counts[name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, counted)

    counting(os, "scandir")
    counting(encoded, "_header")
    counting(encoded, "_read")

    def since():
        found = tuple(counts.values())
        counts.update(dict.fromkeys(counts, 0))
        return found

    return since


@pytest.mark.parametrize("stream", [True, False])
def test_a_second_start_lists_and_decodes_nothing(folder, count, stream):
    first = data.folder(folder, None, stream)
    assert count() == (3, 24, 0 if stream else 24)
    again = data.folder(folder, None, stream)
    assert count() == (0, 0, 0)
    np.testing.assert_array_equal(again.images[:], first.images[:])
    np.testing.assert_array_equal(again.labels, first.labels)


def test_what_differs_in_a_folder_is_found(folder, count):
    before = data.folder(folder, None).images
    count()
    changed = folder / "a" / "3.png"
    Image.new("L", (8, 8), 77).save(changed)
    dataset = data.folder(folder, None)
    assert count() == (3, 1, 24)  # of the others the headers are known
    differing = (dataset.images != before).any((1, 2, 3))
    assert differing.sum() == 1
    assert (dataset.images[differing] == 77).all()

    (folder / "c").mkdir()
    Image.new("L", (8, 8), 99).save(folder / "c" / "0.png")
    dataset = data.folder(folder, None)
    assert (len(dataset.images), dataset.num_classes) == (25, 3)
    assert count()[1] == 1
    changed.unlink()
    assert len(data.folder(folder, None).images) == 24
    times = os.stat(folder / "c" / "0.png").st_mtime_ns
    (folder / "c" / "0.png").write_bytes((folder / "a" / "1.png").read_bytes())
    os.utime(folder / "c" / "0.png", ns=(times, times))  # the size still says it
    assert (data.folder(folder, None).images[-1] != 99).any()


def test_a_damaged_index_is_made_anew(folder, count, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data.folder(folder, None, True)
    (kept,) = data.cache_folder().glob("folder-????????????????.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    count()
    data.folder(folder, None, True)
    assert count() == (3, 24, 0)


# Batches


@pytest.mark.parametrize("balanced", [False, True])
def test_a_batch_is_of_the_indices_of_its_step(folder, balanced):
    streamed, held = (data.folder(folder, None, stream) for stream in (True, False))
    shape = (3, 2, 4)
    indices = data.make_indices(KEY, 24, shape, held.labels if balanced else None)
    batches = make_batches(streamed, shape, balanced=balanced)
    assert len(batches) == 20
    for step in (0, 7, 3):
        batch = batches[step]
        np.testing.assert_array_equal(batch["images"], held.images[indices(step)])
        np.testing.assert_array_equal(batch["labels"], held.labels[indices(step)])
    assert make_batches(streamed, labelled=False)[0].keys() == {"images"}


def test_members_of_a_population_have_batches_of_their_own(folder):
    dataset = data.folder(folder, None, True)
    others = np.asarray(jax.random.key_data(jax.random.key(6)))
    keys = [np.asarray(jax.random.key_data(KEY)), others]
    both = make_batches(dataset, keys=keys, together=True)[2]["images"]
    assert both.shape == (2, 2, 1, 4, 8, 8, 1)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(both[i], make_batches(dataset, keys=[key])[2]["images"])


def test_the_shares_of_two_processes_are_the_whole_batch(folder):
    dataset = data.folder(folder, None, True)
    whole = make_batches(dataset)[3]
    shares = [make_batches(dataset, positions=np.arange(4)[i::2])[3] for i in range(2)]
    for name, array in whole.items():
        for i in range(2):
            np.testing.assert_array_equal(shares[i][name], array[:, :, i::2])


def test_workers_feed_the_devices_in_time(folder, every_device):
    """From any step on, the last one repeated; each device has its part, and never the whole."""
    dataset = data.folder(folder, None, True)
    batches = make_batches(dataset, (2, 1, 8))
    with streams.feed(batches, 3, 2, of_batches(8)) as read:
        for steps in ([3, 4, 4], [5], list(range(6, 20))):
            batch = read(steps)
            for name, array in batch.items():
                expected = np.stack([batches[step][name] for step in steps])
                np.testing.assert_array_equal(array, expected)
                parts = {shard.data.shape[:4] for shard in array.addressable_shards}
                assert parts == {(len(steps), 2, 1, 1)}
        workers = multiprocessing.active_children()
        assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)


def test_a_worker_starts_with_little_and_ends_with_its_parent(folder, tmp_path):
    """What it is given passes a pipe of 64 KB, which nobody empties where it dies at once."""
    batches = make_batches(data.folder(folder, None, True))
    large = np.zeros(10**6, np.int32)
    files = dataclasses.replace(batches.dataset.images.source, ends=large, names=large)
    images = dataclasses.replace(batches.dataset.images, source=files)
    shared = streams._shared(batches.dataset._replace(images=images, labels=large))
    assert len(cloudpickle.dumps(dataclasses.replace(batches, dataset=shared))) < 10_000

    script = f"""
import multiprocessing, os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import data, streams, test_streams
from pathlib import Path
if __name__ == "__main__":
    batches = test_streams.make_batches(data.folder(Path({str(folder)!r}), None, True))
    with streams.feed(batches, 0, 1, test_streams.of_batches(1)) as read:
        read([0])
        print(multiprocessing.active_children()[0].pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    worker = int(done.stdout)
    for _ in range(200):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


# Runs


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("goodfellow", ("steps_per_call=4", "balanced=True", "stream_workers=2")),
        ("goodfellow", ("packing=2", "d_steps=2", "accumulate=2", "stream_workers=0")),
        ("cgan", ("steps_per_call=1", "stream_workers=0")),
    ],
)
def test_a_streamed_run_is_that_in_memory(run, recipe, changes):
    changes = (*ROWS, "batch_size=8", *changes)
    held = run("held", *(x for x in changes if "workers" not in x), "stream=False", recipe=recipe)
    streamed = run("streamed", *changes, "stream=True", recipe=recipe)
    assert streamed == held
    assert [row["step"] for row in held] == [3, 6, 9]


def test_convolutions_and_a_resume_where_the_other_has_stopped(run):
    """Half of it in memory, half streamed, and to and fro."""
    changes = (*ROWS, *SMALL[:3], "stream_workers=0")
    held = run("held", *changes[:-1], "stream=False", recipe="dcgan")
    run("changing", *changes[:-1], "num_steps=5", "stream=False", recipe="dcgan")
    run("changing", *changes, "num_steps=7", "stream=True", recipe="dcgan")
    assert run("changing", *changes, "stream=True", recipe="dcgan")[-1] == held[-1]


def test_on_many_devices(run, every_device):
    changes = (*ROWS, "batch_size=8")
    held = run("held", *changes, "stream=False")
    assert run("streamed", *changes, "stream=True", "stream_workers=0") == held


@pytest.mark.slow
def test_a_population_together(folder, make_config, tmp_path):
    rows = {}
    for name, stream in (("held", False), ("streamed", True)):
        changes = {"dataset": f"folder:{folder}", "stream": stream, "population": 2}
        changes |= {"num_steps": 4, "log_every": 2, "sample_every": 0, "eval_every": 0}
        changes |= {"batch_size": 8, "stream_workers": 0 if stream else None}
        train.train_population(make_config(changes=changes), tmp_path / name, together=True)
        for seed in range(2):
            lines = (tmp_path / name / f"seed_{seed}" / "metrics.jsonl").read_text().splitlines()
            found = [json.loads(line) for line in lines]
            rows[name, seed] = [{k: v for k, v in x.items() if k != "seconds"} for x in found]
    for seed in range(2):
        assert rows["streamed", seed] == rows["held", seed]
    assert rows["held", 0] != rows["held", 1]


# What goes wrong


def test_a_file_that_proves_damaged_is_named_and_the_run_goes_on_without_it(
    run, command, folder, tmp_path
):
    changes = ("batch_size=8", "stream=True", "log_every=1", "checkpoint_every=2", "eval_every=0")
    run("run", *changes, "num_steps=2", "stream_workers=0")
    file = folder / "b" / "20.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])  # its header is whole
    outcome = command(
        "train.py",
        "--config=configs/digits.py:goodfellow",
        f"--workdir={tmp_path / 'run'}",
        f"--config.dataset=folder:{folder}",
        *(f"--config.{change}" for change in (*changes, "num_steps=8", "stream_workers=1")),
    )
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert f"{file} cannot be read" in line
    saved = checkpoints.Checkpoints(tmp_path / "run", 2)
    assert saved.latest_step() >= 2
    saved.close()
    file.write_bytes(whole)
    held = run("held", *changes, "num_steps=8", "stream=False")
    assert run("run", *changes, "num_steps=8", "stream_workers=0")[-1] == held[-1]


def test_a_worker_that_is_killed_ends_the_run_in_one_line(command, folder, tmp_path, monkeypatch):
    killed = []

    def stop() -> bool:
        if not killed:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)
        return False

    monkeypatch.setattr(train, "stopping", lambda _: stop)
    words = (f"dataset=folder:{folder}", "stream=True", "stream_workers=1", "num_steps=100000")
    words += ("batch_size=8", "checkpoint_every=1", "sample_every=0", "eval_every=0")

    # Before the first step nothing is there to be killed.
    original, calls = train.next_steps, []

    def next_steps(*arguments):
        calls.append(1)
        if len(calls) == 4:
            killed.clear()
        return original(*arguments)

    killed.append(0)
    monkeypatch.setattr(train, "next_steps", next_steps)
    outcome = command(
        "train.py",
        "--config=configs/digits.py:goodfellow",
        f"--workdir={tmp_path / 'run'}",
        *(f"--config.{word}" for word in words),
    )
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert f"a worker that decodes images has ended: process {killed[0]} by SIGKILL" in line
    saved = checkpoints.Checkpoints(tmp_path / "run", 2)
    assert saved.latest_step() >= 3
    saved.close()


class AnySize(Unusual, skip_registration=True):
    """Images whose size the data set does not say."""

    name = "any_size"

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        label = tfds.features.ClassLabel(num_classes=10)
        features = tfds.features.FeaturesDict({"before": image, "image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)


def test_records_of_any_size_need_a_resolution(tmp_path, monkeypatch):
    monkeypatch.setitem(tfds_builders.BUILDERS, "any_size", AnySize)
    AnySize(data_dir=str(tmp_path)).download_and_prepare(file_format="array_record")
    with pytest.raises(app.UsageError, match="has images of any size: set a resolution"):
        data.tfds_images("any_size", str(tmp_path), None, stream=True)
    assert data.tfds_images("any_size", str(tmp_path), 4, stream=True).spec == ((4, 4, 1), 10)
    assert data.tfds_images("any_size", str(tmp_path), None).spec == ((8, 8, 1), 10)


def test_a_damaged_record_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(tfds_builders.BUILDERS, "unusual", Unusual)
    Unusual(data_dir=str(tmp_path)).download_and_prepare(file_format="array_record")
    dataset = data.tfds_images("unusual", str(tmp_path), None, stream=True)
    (records,) = tmp_path.glob("unusual/*/unusual-train*")
    content = bytearray(records.read_bytes())
    content[content.rindex(b"IHDR") + 30] ^= 0xFF
    records.write_bytes(content)
    with pytest.raises(app.UsageError, match=r"unusual is damaged in .*, record [01] of train: "):
        data.tfds_images("unusual", str(tmp_path), None, stream=True).images[:]
    assert len(dataset.images) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("stream=True",), "digits is made in memory"),
        (("dataset=stacked_mnist", "stream=True"), "stacked_mnist is made in memory"),
        (
            ("stream_workers=2",),
            "--config.stream_workers does nothing here: digits is made in memory",
        ),
        (("dataset=folder:FOLDER", "stream=False", "stream_workers=2"), "stream is False"),
        (
            ("dataset=folder:FOLDER", "stream=True", "stream_workers=-1"),
            "stream_workers must be 0 or more",
        ),
    ],
)
def test_mistakes(command, folder, tmp_path, words, message):
    outcome = command(
        "train.py",
        "--config=configs/digits.py:goodfellow",
        f"--workdir={tmp_path / 'run'}",
        *(f"--config.{word.replace('FOLDER', str(folder))}" for word in words),
    )
    assert (outcome.code, outcome.compilations) == (2, 0)
    (line,) = outcome.err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()

"""Data sets from their original formats, and which examples a step takes."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import io
import os
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import app
from PIL import Image

import data
import tfds_builders

KEY = jax.random.key(0)


@pytest.fixture
def load(make_config):
    def load(dataset: str, **changes) -> data.Dataset:
        changes = {"dataset": dataset, "batch_size": 2} | changes
        return data.load(make_config(changes=changes))

    return load


# Which examples a step takes


def test_an_epoch_is_one_permutation():
    indices = data.make_indices(KEY, 100, (2, 1, 5))
    epoch = np.concatenate([indices(step).ravel() for step in range(10)])
    assert indices(0).shape == (2, 1, 5)
    assert indices(0).dtype == np.int32
    np.testing.assert_array_equal(np.sort(epoch), np.arange(100))
    following = np.concatenate([indices(step).ravel() for step in range(10, 20)])
    np.testing.assert_array_equal(np.sort(following), np.arange(100))
    assert (epoch != following).any()
    assert (epoch != np.arange(100)).any()


@pytest.mark.parametrize("num_examples", [7, 10, 16, 33])
def test_steps_straddle_epochs(num_examples):
    indices = data.make_indices(KEY, num_examples, (4, 4))
    stream = np.concatenate([indices(step).ravel() for step in range(30)])
    for start in range(0, len(stream) - num_examples + 1, num_examples):
        epoch = stream[start : start + num_examples]
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


@pytest.mark.parametrize("num_examples", [7, 16, 200])
def test_of_several_steps_they_are_stacked(num_examples):
    indices, again = (data.make_indices(KEY, num_examples, (2, 5)) for _ in range(2))
    steps = [3, 4, 5, 5]
    np.testing.assert_array_equal(indices(steps), np.stack([again(step) for step in steps]))
    assert indices(steps).dtype == np.int32


def test_examples_are_a_function_of_key_and_step_alone():
    indices, again = (data.make_indices(jax.random.key(3), 50, (20,)) for _ in range(2))
    backwards = {step: again(step) for step in (9, 4, 0)}
    for step, expected in backwards.items():
        np.testing.assert_array_equal(indices(step), expected)
    other = data.make_indices(jax.random.key(4), 50, (20,))
    assert (indices(0) != other(0)).any()


def test_an_epochs_order_is_its_keys():
    """By the definition: a run goes on with the same examples after a change of the code."""
    indices = data.make_indices(KEY, 50, (50,))
    bits = jax.random.bits(jax.random.fold_in(KEY, 3), (2, 50))
    np.testing.assert_array_equal(indices(3), np.argsort(bits[0], kind="stable"))


def test_indices_outlive_a_donated_key():
    key = jax.random.key(3)
    indices = data.make_indices(key, 50, (20,))
    expected = indices(7)
    donated = jax.random.key(3)
    indices = data.make_indices(donated, 50, (20,))
    jax.jit(lambda k: jax.random.fold_in(k, 1), donate_argnums=0)(donated)
    np.testing.assert_array_equal(indices(7), expected)


def test_balanced_draws_every_class_equally_often():
    labels = np.repeat([0, 1, 2, 5], [900, 90, 9, 1])
    indices = data.make_indices(KEY, 1_000, (100,), labels)
    epoch = np.concatenate([indices(step) for step in range(10)])
    np.testing.assert_array_equal(np.bincount(labels[epoch]), [250, 250, 250, 0, 0, 250])
    counts = np.bincount(epoch, minlength=1_000)
    assert counts[:900].max() == 1  # of a large class nobody is drawn twice
    assert set(counts[900:990]) == {2, 3}  # of a small one all are drawn as often
    assert np.bincount(labels[indices(0)], minlength=6)[[0, 1, 2, 5]].min() > 10  # mixed


def test_take_gathers_images_and_labels():
    examples = {"images": jnp.arange(12).reshape(6, 2), "labels": jnp.arange(6) * 10}
    batch = data.take(examples, jnp.array([[5, 0], [1, 1]]))
    np.testing.assert_array_equal(batch["images"], [[[10, 11], [0, 1]], [[2, 3], [2, 3]]])
    np.testing.assert_array_equal(batch["labels"], [[50, 0], [10, 10]])


# What is embedded


def test_digits(load):
    dataset = load("digits")
    assert dataset.spec == ((8, 8, 1), 10)
    assert dataset.images.shape == (1_297, 8, 8, 1)
    assert dataset.images.dtype == np.uint8
    assert dataset.images.max() == 255
    assert np.bincount(dataset.labels).min() > 110
    assert load("digits", resolution=16).images.shape == (1_297, 16, 16, 1)


@pytest.mark.parametrize(("name", "modes"), [("ring", 8), ("grid", 25)])
def test_toys(load, name, modes):
    dataset = load(name)
    assert dataset.spec == ((2,), modes)
    assert dataset.spec.kind == "point"
    means = np.array([dataset.images[dataset.labels == mode].mean(0) for mode in range(modes)])
    distances = np.linalg.norm(means[:, None] - means, axis=-1) + 9 * np.eye(modes)
    deviation = np.std(dataset.images - means[dataset.labels])
    assert distances.min() > 20 * deviation
    if name == "ring":
        np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1, atol=1e-3)


# Folders


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("cats", 10), ("dogs", 200)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (8, 8), colour + i).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_folder_with_classes(load, folder):
    dataset = load(f"folder:{folder}")
    assert dataset.spec == ((8, 8, 1), 2)
    np.testing.assert_array_equal(dataset.images[:, 0, 0, 0], [10, 11, 12, 200, 201, 202])
    np.testing.assert_array_equal(dataset.labels, [0, 0, 0, 1, 1, 1])


def test_folder_without_classes_in_colour_resized(load, folder):
    Image.new("RGB", (20, 10), (255, 0, 7)).save(folder / "wide.jpg", quality=100)
    (folder / "notes.txt").write_text("no image")
    dataset = load(f"folder:{folder}", resolution=16)
    assert dataset.spec == ((16, 16, 3), None)
    wide = dataset.images[-1].astype(int)
    assert abs(wide - [255, 0, 7]).max() <= 3
    with pytest.raises(app.UsageError, match="images of 8x8, 20x10: .* a resolution"):
        load(f"folder:{folder}")


def test_folder_names_the_damaged_file(load, folder):
    whole = (folder / "cats" / "1.png").read_bytes()
    for content in (*(whole[:-n] for n in (1, 8, 12, 20, 30)), b"", b"GIF89a"):
        (folder / "cats" / "1.png").write_bytes(content)
        with pytest.raises(app.UsageError, match=r"cats/1\.png cannot be read"):
            load(f"folder:{folder}")


def test_folder_waits_for_no_pipe(load, folder):
    os.mkfifo(folder / "cats" / "9.png")
    with pytest.raises(app.UsageError, match=r"cats/9\.png cannot be read: it is no file"):
        load(f"folder:{folder}")


def test_folder_refuses_deep_images_instead_of_clipping_them(load, folder):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(folder / "cats" / "1.png")
    with pytest.raises(app.UsageError, match=r"cats/1\.png cannot be read: its mode is I"):
        load(f"folder:{folder}")


def test_folder_names_a_damaged_file_of_any_format_in_one_line(load, folder, recwarn):
    """Pillow warns of some instead of raising: a warning would be a second line."""
    for name in ("x.tif", "x.jpg", "x.bmp", "x.gif", "x.webp"):
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(buffer, {"tif": "TIFF", "jpg": "JPEG"}.get(name[2:], name[2:]))
        (folder / name).write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        with pytest.raises(app.UsageError, match=rf"{name} cannot be read"):
            load(f"folder:{folder}")
        (folder / name).unlink()
    assert not recwarn


def test_folder_names_a_file_whose_camera_wrote_nonsense(load, folder):
    """Of what is wrong with EXIF, Pillow raises whatever its parser does."""
    Image.new("L", (8, 8)).save(folder / "x.png", exif=b"II*\0")
    with pytest.raises(app.UsageError, match=r"x\.png cannot be read: unpack requires"):
        load(f"folder:{folder}")


def test_folder_takes_pictures_upright_and_whatever_their_palette(load, folder, recwarn):
    left = np.zeros((16, 16, 3), np.uint8)
    left[:, :8] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    Image.fromarray(left).save(folder / "turned.png", exif=exif)
    palette = Image.fromarray(left).quantize(4)
    palette.save(folder / "palette.png", transparency=b"\x00\xff\x80\x40")
    images = load(f"folder:{folder}", resolution=16).images
    np.testing.assert_array_equal(images[-2], left)  # palette.png
    np.testing.assert_array_equal(images[-1], np.rot90(left, -1))
    assert not recwarn


def test_folder_follows_links_and_leaves_what_is_hidden(
    load, folder, tmp_path_factory, monkeypatch
):
    linked = tmp_path_factory.mktemp("linked")
    for name in ("cats", "dogs"):
        (linked / name).symlink_to(folder / name)
    (linked / "dogs" / "circle").symlink_to(linked)
    (linked / ".thumbnails").mkdir()
    Image.new("L", (8, 8), 99).save(linked / ".thumbnails" / "0.png")
    monkeypatch.setenv("HOME", str(linked.parent))
    dataset = load(f"folder:~/{linked.name}")
    assert set(dataset.labels) == {0, 1}
    assert set(dataset.images[:, 0, 0, 0]) == {10, 11, 12, 200, 201, 202}


def test_folder_without_image(load, tmp_path):
    with pytest.raises(app.UsageError, match="no image"):
        load(f"folder:{tmp_path}")
    with pytest.raises(app.UsageError, match="there is no such folder"):
        load(f"folder:{tmp_path}/nothing")


# TFDS: data in its original formats, served on the loopback address


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


def make_idx_files(rng) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    files, arrays = {}, {}
    for split, (image_file, label_file) in tfds_builders.IDX_FILES.items():
        size = {"train": 30, "test": 20}[split]
        images = rng.integers(0, 256, (size, 28, 28), np.uint8)
        labels = rng.integers(0, 10, size).astype(np.uint8)
        files |= {image_file: idx(images), label_file: idx(labels)}
        arrays |= {f"{split}_images": images[..., None], f"{split}_labels": labels}
    return files, arrays


ESCAPED = "escaped.bin"


def make_cifar_files(rng) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    buffer, arrays = io.BytesIO(), []
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            images = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
            labels = rng.integers(0, 10, (6, 1)).astype(np.uint8)
            content = np.concatenate([labels, images.transpose(0, 3, 1, 2).reshape(6, -1)], axis=1)
            add_member(archive, name, content.tobytes())
            arrays.append((images, labels[:, 0]))
        words = [
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ]
        add_member(archive, "batches.meta.txt", "\n".join([*words, ""]).encode())
        add_member(archive, f"../../../{ESCAPED}", b"of a name that leaves its folder")
    images, labels = (np.concatenate(parts) for parts in zip(*arrays[:5]))
    arrays = {"train_images": images, "train_labels": labels}
    return {"cifar-10-binary.tar.gz": buffer.getvalue()}, arrays


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def serve(tmp_path, monkeypatch, serve_folder):
    """Serves files, and lets a builder find them and their checksums there."""

    def start(builder, files: dict[str, bytes], checksums: dict[str, bytes] | None = None):
        root = tmp_path / "www"
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            (root / name).write_bytes(content)

        url = serve_folder(root)
        infos = {
            url + name: type(next(iter(builder.url_infos.values())))(
                size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=name
            )
            for name, content in (checksums or files).items()
        }
        monkeypatch.setattr(builder, "url_infos", infos)
        monkeypatch.setattr(builder, "URL", url, raising=False)
        if hasattr(builder, "_cifar_info"):
            cifar_info = property(
                lambda self: super(builder, self)._cifar_info._replace(url=next(iter(infos)))
            )
            monkeypatch.setattr(builder, "_cifar_info", cifar_info)
        return tmp_path / "tfds"

    return start


@pytest.mark.parametrize("name", tfds_builders.BUILDERS)
def test_data_is_downloaded_checked_and_prepared_without_tensorflow(load, serve, name):
    make = make_cifar_files if name == "cifar10" else make_idx_files
    files, arrays = make(np.random.default_rng(0))
    data_dir = serve(tfds_builders.BUILDERS[name], files)
    dataset = load(name, data_dir=str(data_dir))

    # TFDS shuffles on writing: the same images with the same labels, in some order.
    def pairs(images, labels):
        return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels))

    expected = pairs(arrays["train_images"], arrays["train_labels"])
    assert pairs(dataset.images, dataset.labels) == expected

    again = load(name, data_dir=str(data_dir))  # from the cache
    np.testing.assert_array_equal(again.images, dataset.images)
    np.testing.assert_array_equal(again.labels, dataset.labels)
    assert load(name, data_dir=str(data_dir), resolution=8).images.shape[1:3] == (8, 8)
    assert not list(data_dir.parent.rglob(ESCAPED))


class Unusual(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Two images an example, ten classes of which two occur, or labels that are not known."""

    name = "unusual"
    VERSION = tfds.core.Version("1.0.0")
    labels = (3, 5)
    dtype = np.uint8

    def _info(self):
        image = tfds.features.Image(shape=(8, 8, 1), dtype=self.dtype, encoding_format="png")
        features = {
            "before": image,
            "image": image,
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        before, after = (Image.new("L", (8, 8), colour) for colour in (0, 9))
        for i, label in enumerate(self.labels):
            yield i, {"before": before, "image": after, "label": label}


@pytest.mark.parametrize(("labels", "num_classes"), [((3, 5), 10), ((-1, -1), None)])
def test_what_a_data_set_says_of_itself(load, tmp_path, monkeypatch, labels, num_classes):
    monkeypatch.setitem(tfds_builders.BUILDERS, "unusual", Unusual)
    monkeypatch.setattr(Unusual, "labels", labels)
    Unusual(data_dir=str(tmp_path)).download_and_prepare(file_format="array_record")
    for _ in range(2):  # read, then from the cache
        dataset = load("unusual", data_dir=str(tmp_path))
        assert (dataset.images == 9).all()
        assert dataset.spec == ((8, 8, 1), num_classes)
        assert (dataset.labels is None) == (num_classes is None)


def test_deep_images_are_refused_instead_of_clipped(load, tmp_path, monkeypatch):
    monkeypatch.setitem(tfds_builders.BUILDERS, "unusual", Unusual)
    Unusual(data_dir=str(tmp_path)).download_and_prepare(file_format="array_record")
    monkeypatch.setattr(Unusual, "dtype", np.uint16)  # which TFDS writes by TensorFlow alone
    with pytest.raises(app.UsageError, match="unusual has images of uint16, not 8 bits a channel"):
        load("unusual", data_dir=str(tmp_path))


def test_a_data_set_that_cannot_be_had_says_why(load, monkeypatch):
    with pytest.raises(app.UsageError, match=r"dataset mnist:9\.0\.1: .*9\.0\.1"):
        load("mnist:9.0.1")

    def fail(**_):
        print("a banner")
        raise ImportError

    monkeypatch.setitem(tfds_builders.BUILDERS, "mnist", fail)
    with pytest.raises(app.UsageError, match="dataset mnist: ImportError"):
        load("mnist")


def test_a_file_with_another_checksum_is_refused(load, serve):
    files, _ = make_idx_files(np.random.default_rng(0))
    others, _ = make_idx_files(np.random.default_rng(1))
    data_dir = serve(tfds_builders.Mnist, files, checksums=others)
    with pytest.raises(app.UsageError, match="mnist could not be prepared: .*configs/digits.py"):
        load("mnist", data_dir=str(data_dir))
    with pytest.raises(app.UsageError, match="mnist could not be prepared"):
        load("mnist", data_dir=str(data_dir))  # and nothing is taken for prepared


def test_a_damaged_original_is_named(load, serve):
    files, _ = make_idx_files(np.random.default_rng(0))
    file = "train-images-idx3-ubyte.gz"
    for content in (files[file][:-20], b"", gzip.compress(gzip.decompress(files[file])[:-5])):
        data_dir = serve(tfds_builders.Mnist, files | {file: content})
        with pytest.raises(app.UsageError, match="could not be prepared: .*train-images"):
            load("mnist", data_dir=str(data_dir))


def test_no_network_is_one_line_at_once(load, tmp_path, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), None) as server:  # type: ignore[arg-type]
        port = server.server_port  # free again in a moment
    infos = {f"http://127.0.0.1:{port}/x.gz": None}
    monkeypatch.setattr(tfds_builders.Mnist, "url_infos", infos)
    start = time.perf_counter()
    with pytest.raises(app.UsageError, match=r"cannot be reached .* configs/digits.py"):
        load("mnist", data_dir=str(tmp_path))
    assert time.perf_counter() - start < 5
    assert not list(tmp_path.iterdir())


def test_an_unknown_data_set_names_the_nearest(load):
    with pytest.raises(app.UsageError, match="'mnits' does not exist: did you mean mnist?"):
        load("mnits")


def test_a_damaged_cache_is_read_anew(load, serve):
    files, _ = make_idx_files(np.random.default_rng(0))
    data_dir = serve(tfds_builders.Mnist, files)
    dataset = load("mnist", data_dir=str(data_dir))
    cached = max(data.cache_folder().glob("mnist*"), key=lambda path: path.stat().st_mtime_ns)
    for content in (cached.read_bytes()[:-500], b""):
        cached.write_bytes(content)
        np.testing.assert_array_equal(load("mnist", data_dir=str(data_dir)).images, dataset.images)


def test_a_cache_that_has_lost_an_array_is_none(tmp_path):
    arrays = {"images": np.zeros(3), "labels": np.ones(3)}
    data.write_arrays(tmp_path / "x.npz", arrays)
    assert data.read_arrays(tmp_path / "x.npz").keys() == arrays.keys()
    with (
        zipfile.ZipFile(tmp_path / "x.npz") as whole,
        zipfile.ZipFile(tmp_path / "y.npz", "w") as y,
    ):
        for name in ("images.npy", "names.npy"):
            y.writestr(name, whole.read(name))
    assert data.read_arrays(tmp_path / "y.npz") is None


def test_a_cache_that_calls_itself_encrypted_or_is_a_pipe_is_none(tmp_path):
    data.write_arrays(tmp_path / "x.npz", {"images": np.zeros(3)})
    content = (tmp_path / "x.npz").read_bytes()
    start = content.index(
        b"PK\1\2"
    )  # the directory, of which flags and method are 8 and 10 bytes on
    for place in (start + 8, start + 10):
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        (tmp_path / "x.npz").write_bytes(damaged)
        assert data.read_arrays(tmp_path / "x.npz") is None
    os.mkfifo(tmp_path / "pipe.npz")
    assert data.read_arrays(tmp_path / "pipe.npz") is None


def test_a_cache_with_a_damaged_header_is_none(tmp_path):
    """NumPy parses the header of a large array before zip has read it all and can check it."""
    data.write_arrays(tmp_path / "x.npz", {"images": np.zeros((100, 100), np.uint8)})
    content = (tmp_path / "x.npz").read_bytes()
    start = content.index(b"{'descr'")
    for place in range(start, content.index(b"\n", start)):
        for bit in range(8):
            flipped = bytes([content[place] ^ 1 << bit])
            (tmp_path / "x.npz").write_bytes(content[:place] + flipped + content[place + 1 :])
            assert data.read_arrays(tmp_path / "x.npz") is None


def test_a_cache_that_the_disk_has_no_room_for_leaves_nothing(tmp_path, monkeypatch):
    def fill(file, **_):
        file.write(b"some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", fill)
    data.write_arrays(tmp_path / "x.npz", {"images": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_damaged_prepared_data_is_named(load, serve):
    files, _ = make_idx_files(np.random.default_rng(0))
    data_dir = serve(tfds_builders.Mnist, files)
    load("mnist", data_dir=str(data_dir))
    (records,) = data_dir.glob("mnist/*/mnist-train*")
    content = bytearray(records.read_bytes())
    content[content.index(b"IHDR") + 30] ^= 0xFF  # in an image: elsewhere there is padding
    for damage in (content, content[:2000], b""):
        records.write_bytes(damage)
        with pytest.raises(app.UsageError, match="mnist is damaged in .*mnist/3.0.1"):
            load("mnist", data_dir=str(data_dir))
    records.unlink()
    records.symlink_to("nowhere")
    with pytest.raises(app.UsageError, match="mnist is damaged in .*No such file"):
        load("mnist", data_dir=str(data_dir))
    records.unlink()
    records.write_bytes(content)
    for change in ("fileFormat", "nothing"):
        (info,) = data_dir.glob("mnist/*/dataset_info.json")
        if change == "fileFormat":
            info.write_text(info.read_text().replace("array_record", "tfrecord"))
            words = "is not in the array_record format"
        else:
            info.unlink()
            words = "is damaged in"
        with pytest.raises(app.UsageError, match=words):
            load("mnist", data_dir=str(data_dir))


@pytest.mark.alone
def test_real_mnist_is_read_about_as_fast_as_pillow_decodes_it(
    load, tfds_data: Path, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    start = time.perf_counter()
    dataset = load("mnist", data_dir=str(tfds_data))
    cold = time.perf_counter() - start
    assert dataset.spec == ((28, 28, 1), 10)
    assert dataset.images.shape == (60_000, 28, 28, 1)
    np.testing.assert_array_equal(
        np.bincount(dataset.labels),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],  # of LeCun's train set
    )
    assert round(float(dataset.images.mean() / 255), 4) == 0.1307
    start = time.perf_counter()
    load("mnist", data_dir=str(tfds_data))
    warm = time.perf_counter() - start
    assert warm < cold / 2
    files = [io.BytesIO() for _ in range(6_000)]
    for file, image in zip(files, dataset.images):
        Image.fromarray(image[..., 0]).save(file, "PNG")
    start = time.perf_counter()
    for file in files:
        np.asarray(Image.open(file))
    decoded = (time.perf_counter() - start) * len(dataset.images) / len(files)
    print(f"cold {cold:.1f} s, warm {warm:.2f} s, Pillow {decoded:.1f} s")
    assert cold < 4 * decoded  # the import of TFDS is a part of it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"), [("fashion_mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))]
)
def test_other_real_data(load, tfds_data: Path, name, shape):
    if not (tfds_data / name).is_dir():
        pytest.skip(f"{name} is not prepared in {tfds_data}")
    dataset = load(name, data_dir=str(tfds_data))
    assert dataset.spec == (shape, 10)
    assert len(set(np.bincount(dataset.labels))) == 1


def test_stacked_mnist_must_fit_into_memory(load, tfds_data: Path, monkeypatch):
    monkeypatch.setattr(data, "host_memory", lambda: 10 * 2**30)  # MNIST's own take 3.7 of it
    with pytest.raises(app.UsageError, match=r"stacked_mnist at resolution=256 takes \d+ GiB"):
        load("stacked_mnist", data_dir=str(tfds_data), resolution=256)


def test_stacked_mnist(load, tfds_data: Path):
    mnist = load("mnist", data_dir=str(tfds_data))
    dataset = load("stacked_mnist", data_dir=str(tfds_data))
    assert dataset.spec == ((28, 28, 3), 1_000)
    counts = np.bincount(dataset.labels, minlength=1_000)
    assert counts.min() > 50
    known = {image.tobytes(): label for image, label in zip(mnist.images, mnist.labels)}
    for image, label in zip(dataset.images[:50], dataset.labels):
        digits = [known[image[..., channel].tobytes()] for channel in range(3)]
        assert label == 100 * digits[0] + 10 * digits[1] + digits[2]

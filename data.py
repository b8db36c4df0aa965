"""Data sets, and which examples a step takes.

`load` returns a data set; `make_indices` says which examples step k takes, as a pure function of
(key, k); `take` gathers them. The three are apart so that data on the device, streamed from disk
(streams.py), or split over hosts share the second. Images in a folder need no code; a set of your
own in code is a branch in `load` and one in `load_held_out`, and made in memory is named in
`is_computed`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import io
import json
import math
import os
import re
import tempfile
import urllib.parse
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, logging
from PIL import Image

import devices
import encoded

if TYPE_CHECKING:
    from ml_collections import ConfigDict

NAMES = "names"  # of the arrays in a file of the cache, beside them
TOY_SIZE = 100_000
DIGITS_HELD_OUT = 500
STACKED_SIZE = {"train": 128_000, "test": 26_000}
# Of the memory of this machine, and of a device: images that take more when decoded are streamed.
# On a CPU they are there twice, as an array and on the device, and networks, their optimisers and
# the scores' features take memory, too.
MEMORY_SHARE = 0.25


class Spec(NamedTuple):
    """What a network must know of a data set.

    Attributes:
      shape: of an example: (height, width, channels) of an image, (2,) of a point.
      num_classes: None where there are no labels.
    """

    shape: tuple[int, ...]
    num_classes: int | None

    @property
    def kind(self) -> str:
        return "image" if len(self.shape) == 3 else "point"


class Dataset(NamedTuple):
    """A data set: its labels in memory, its images there, too, or decoded when they are indexed.

    Attributes:
      images: uint8 [N, H, W, C], or float32 [N, 2] of a toy; if `streamed` it is no array, but
        reads like one (encoded.Images).
      labels: int32 [N] in [0, num_classes), or None.
      num_classes: None where there are no labels.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    num_classes: int | None = None

    @property
    def spec(self) -> Spec:
        return Spec(self.images.shape[1:], self.num_classes)

    @property
    def streamed(self) -> bool:
        """Whether its images are too many for the memory, or shall not be there."""
        return isinstance(self.images, encoded.Images)

    @property
    def facts(self) -> dict[str, Any]:
        """What a run's env.json says of it."""
        return {"examples": len(self.images), **self.spec._asdict()}


def load(config: ConfigDict) -> Dataset:
    """The training examples of `config.dataset`, at `config.resolution` if that is set.

    Raises:
      app.UsageError: the data set does not exist, is not there, is damaged, or cannot be made of
        that resolution, in one line.
    """
    name = config.dataset
    if name in TOYS:
        return toy(TOYS[name](), seed=0)
    if name == "digits":
        return digits(config.resolution)
    if name.startswith("folder:"):
        path = Path(os.path.expanduser(name.removeprefix("folder:")))
        return folder(path, config.resolution, config.stream)
    if name == "stacked_mnist":
        return stacked_mnist(config.data_dir, config.resolution)
    dataset = tfds_images(name, config.data_dir, config.resolution, stream=config.stream)
    if dataset is None:
        raise app.UsageError(f"dataset {name} has no train split")
    return dataset


def load_held_out(config: ConfigDict) -> Dataset | None:
    """Examples of the same distribution that no training sees; None where there are none.

    Of TFDS the test split, of a toy another draw, of a folder none.

    Raises:
      app.UsageError: as `load` does.
    """
    name = config.dataset
    if name in TOYS:
        return toy(TOYS[name](), seed=1)
    if name == "digits":
        return digits(config.resolution, held_out=True)
    if name.startswith("folder:"):
        return None
    if name == "stacked_mnist":
        return stacked_mnist(config.data_dir, config.resolution, split="test")
    return tfds_images(name, config.data_dir, config.resolution, split="test")


def is_computed(name: str) -> bool:
    """Whether a data set is made in memory, so that there is nothing to stream."""
    return name in (*TOYS, "digits", "stacked_mnist")


def make_indices(
    key: jax.Array,
    num_examples: int,
    shape: tuple[int, ...],
    labels: np.ndarray | None = None,
) -> Callable[[int | Sequence[int]], np.ndarray]:
    """The function `indices(step)`: which examples a step takes, an int32 array of `shape`.

    Of several steps, near each other, they are stacked. They are drawn on the CPU: a GPU has calls
    to finish.

    Examples come in one permutation an epoch; a step may straddle two. With `labels`, an epoch has
    as many draws but equally many of each class, the small ones repeated.

    Args:
      key: typed PRNG key; with the step, all that the answer depends on.
      num_examples: size of the data set.
      shape: of one step's answer.
      labels: int [num_examples] for class-balanced draws.
    """

    key_data = np.asarray(jax.random.key_data(key))  # a copy: the state's own will be donated

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        with devices.on_cpu():
            bits = np.asarray(_epoch_bits(key_data, epoch, num_examples, labels is not None))
        if labels is None:
            return np.argsort(bits[0], kind="stable")
        shuffled = np.lexsort((bits[0], labels))  # by class, shuffled inside each
        members = np.split(shuffled, np.cumsum(np.bincount(labels))[:-1])
        members = [indices for indices in members if len(indices)]
        draws = np.arange(num_examples)
        rank, which = np.divmod(draws, len(members))
        balanced = np.array([members[c][r % len(members[c])] for c, r in zip(which, rank)])
        return balanced[np.argsort(bits[1], kind="stable")]

    size = math.prod(shape)

    def indices(step: int | Sequence[int]) -> np.ndarray:
        steps = np.asarray(step)
        first, last = int(steps.min()), int(steps.max())
        start, end = size * first, size * (last + 1)
        drawn = [
            order(epoch)[max(start - epoch * num_examples, 0) : end - epoch * num_examples]
            for epoch in range(start // num_examples, (end - 1) // num_examples + 1)
        ]
        return np.concatenate(drawn).astype(np.int32).reshape(-1, *shape)[steps - first]

    return indices


@functools.partial(jax.jit, static_argnums=(2, 3))
def _epoch_bits(key_data: jax.Array, epoch: int, num: int, balanced: bool) -> jax.Array:
    """Random uint32 [1, num] that shuffle an epoch, or [2, num] of `make_indices` by class."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data), epoch)
    return jax.random.bits(key, (2, num))[: 2 if balanced else 1]


def take(examples: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
    """A batch: {'images': [N, ...], 'labels': [N]} at `indices` of any shape."""
    return jax.tree.map(lambda array: jnp.take(array, indices, axis=0), examples)


def digits(resolution: int | None, held_out: bool = False) -> Dataset:
    """scikit-learn's handwritten digits, 8x8, from its package: no download.

    Its 1,797 digits have no split of their own: 500, by a permutation of seed 0, are held out.
    Source: Alpaydin and Kaynak 1998, UCI optical recognition of handwritten digits.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    order = np.random.default_rng(0).permutation(len(source.images))
    chosen = order[:DIGITS_HELD_OUT] if held_out else order[DIGITS_HELD_OUT:]
    images = np.round(source.images[chosen] * (255 / 16)).astype(np.uint8)
    if resolution is not None:
        check_memory("digits", (len(images), resolution, resolution, 1))
        fitted = [encoded.fit(Image.fromarray(image), resolution) for image in images]
        images = np.stack([np.asarray(picture) for picture in fitted])
    return Dataset(images[..., None], source.target[chosen].astype(np.int32), 10)


def stacked_mnist(data_dir: str | None, resolution: int | None, split: str = "train") -> Dataset:
    """Three digits of MNIST, drawn at random, as the channels of an image: 1,000 classes.

    The first channel's digit is the hundreds of the class. A split's images are drawn from MNIST's
    own split, always the same.
    Source: Metz et al. 2017; Lin et al. 2018 (PacGAN).
    """
    if resolution is not None:
        check_memory("stacked_mnist", (STACKED_SIZE[split], resolution, resolution, 3))
    mnist = tfds_images("mnist", data_dir, resolution, split, stream=False)
    assert mnist is not None
    assert mnist.labels is not None
    shape = STACKED_SIZE[split], 3
    chosen = np.random.default_rng(0).integers(len(mnist.images), size=shape)
    images = np.empty((shape[0], *mnist.images.shape[1:3], 3), np.uint8)
    for channel in range(3):
        images[..., channel] = mnist.images[chosen[:, channel], ..., 0]
    return Dataset(images, mnist.labels[chosen] @ np.array([100, 10, 1], np.int32), 1_000)


class Mixture(NamedTuple):
    """Gaussians in the plane, all as likely and as wide.

    Attributes:
      centres: float [K, 2].
      deviation: of each, along both axes.
    """

    centres: np.ndarray
    deviation: float


def ring() -> Mixture:
    """8 Gaussians of deviation 0.02 on a circle of radius 1 (Metz et al. 2017)."""
    angles = 2 * np.pi * np.arange(8) / 8
    return Mixture(np.stack([np.cos(angles), np.sin(angles)], axis=1), deviation=0.02)


def grid() -> Mixture:
    """25 Gaussians of deviation 0.0125 on a grid in [-1, 1].

    The grid of Lin et al. 2018 (PacGAN): spacing 2, deviation 0.05, here divided by 4.
    """
    axis = np.linspace(-1, 1, 5)
    return Mixture(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), deviation=0.0125)


TOYS = {f.__name__: f for f in (ring, grid)}


def toy(mixture: Mixture, seed: int) -> Dataset:
    """TOY_SIZE points, equally many around each centre; their centre is their label."""
    num_classes = len(mixture.centres)
    noise = np.random.default_rng(seed).normal(0, mixture.deviation, (TOY_SIZE, 2))
    labels = np.arange(TOY_SIZE, dtype=np.int32) % num_classes
    points = mixture.centres[labels] + noise
    return Dataset(points.astype(np.float32), labels, num_classes)


def folder(
    path: Path, resolution: int | None, stream: bool | None = False, cached: bool = True
) -> Dataset:
    """The images below a folder; where there are sub-folders, they are the classes.

    Grey where every image is grey, RGB otherwise. Without a `resolution` all images must have one
    square size; with one they are cropped to their central square and resized. Its index, and what
    is decoded in memory, are kept in the user's cache folder.

    Args:
      path: the folder.
      resolution: pixels, or None.
      stream: leave the images where they are; None: if they are more than MEMORY_SHARE.
      cached: keep what is decoded, for a next time.
    Raises:
      app.UsageError: no image is there, or one is damaged or has another size (it is named).
    """
    name = f"folder:{path}"
    if not path.is_dir():
        raise app.UsageError(f"dataset {name}: there is no such folder")
    digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    cache = cache_folder() / f"folder-{digest}.npz"
    known = read_arrays(cache)
    try:
        index = encoded.index(str(path), known)
    except OSError as error:
        raise app.UsageError(f"dataset {name}: {error}") from error
    if not len(index["ends"]):
        suffixes = ", ".join(encoded.IMAGE_SUFFIXES)
        raise app.UsageError(f"dataset {name}: no image ({suffixes}) in it")
    if index is not known:
        write_arrays(cache, index)
    widths, heights, channels = index["headers"].T
    if resolution is None:
        sizes = np.unique(index["headers"][:, :2], axis=0)
        if len(sizes) > 1 or widths[0] != heights[0]:
            words = ", ".join(f"{width}x{height}" for width, height in sizes[:2])
            raise app.UsageError(f"dataset {name} has images of {words}: {encoded.ANY_SIZE}")
    size = resolution or int(widths[0])
    files = encoded.Files(str(path), index["files"], index["ends"])
    parts = index["files"], index["stats"], np.array([size, resolution is not None])
    content = b"".join([digest.encode(), *(part.tobytes() for part in parts)])
    fingerprint = hashlib.sha256(content).hexdigest()
    shape = len(files.ends), size, size, int(channels.max())
    images = encoded.Images(name, files, shape, resolution is not None, fingerprint)
    labels = index.get("labels")
    cache = cache_folder() / f"folder-{digest}-{size}.npz"  # one, however often it changes
    held = _held(images, stream, cache if cached else None)
    return Dataset(held, labels, None if labels is None else int(labels.max()) + 1)


def tfds_images(
    name: str,
    data_dir: str | None,
    resolution: int | None,
    split: str = "train",
    stream: bool | None = None,
) -> Dataset | None:
    """A split of a TFDS data set that has an image; its class label where it has one.

    Prepared array_record data is read without TensorFlow. What is not prepared is downloaded first
    (tfds_builders.py, without TensorFlow, for the sets it has). The arrays are cached in the user's
    cache folder, by a fingerprint of the files they were read from.

    Args:
      name, data_dir, resolution, split: as TFDS has them; resolution in pixels, or None.
      stream: leave the images where they are; None: if they are more than MEMORY_SHARE.
    Returns:
      None where the data set has no such split.
    Raises:
      app.UsageError: unknown, not there and not to be had, or of no use here.
    """
    import tensorflow_datasets as tfds

    builder, files = _prepared(name, data_dir and os.path.expanduser(data_dir))
    info = builder.info
    image_key = _feature(info.features, tfds.features.Image, "image")
    label_key = _feature(info.features, tfds.features.ClassLabel, "label")
    if image_key is None:
        raise app.UsageError(f"dataset {name} has no image")
    if (kind := info.features[image_key].np_dtype) != np.uint8:
        raise app.UsageError(f"dataset {name} has images of {np.dtype(kind)}, not 8 bits a channel")
    if split not in info.splits:
        return None
    parts = json.dumps([info.full_name, files, resolution])
    fingerprint = hashlib.sha256(f"{parts}{split}".encode()).hexdigest()
    cache = cache_folder() / f"{info.full_name.replace('/', '-')}-{split}-{fingerprint[:16]}.npz"
    mode = "L" if info.features[image_key].shape[-1] == 1 else "RGB"
    records = encoded.Records(name, str(builder.data_path), split, image_key, mode, label_key or "")
    height, width, _ = info.features[image_key].shape
    any_size = None in (height, width) and resolution is None
    if resolution is not None:
        height = width = resolution
    elif any_size:
        width, height = next(records.pictures([0])).size
    if height != width:
        raise app.UsageError(f"dataset {name} has images of {width}x{height}: {encoded.ANY_SIZE}")
    num = info.splits[split].num_examples
    shape = num, height, width, 1 if mode == "L" else 3
    read: list[int] = []
    both = dataclasses.replace(records, labels=read) if label_key else records
    images = encoded.Images(name, both, shape, resolution is not None, fingerprint)
    held = _held(images, stream, cache)
    if isinstance(held, encoded.Images):  # whose labels would be read again and again
        held = cast(np.ndarray, dataclasses.replace(images, source=records))
    if any_size and isinstance(held, encoded.Images):
        raise app.UsageError(f"dataset {name} has images of any size: set a resolution to stream")
    if label_key is None:
        return Dataset(held)
    labels = _labels(records, num, read, cache.with_stem(f"{cache.stem}-labels"))
    if labels.min() < 0:  # TFDS says -1 where a label is not known
        return Dataset(held)
    return Dataset(held, labels, info.features[label_key].num_classes)


def _held(images: encoded.Images, stream: bool | None, cache: Path | None) -> np.ndarray:
    """The images in memory, and in a file of the cache; or as they are, if they are streamed."""
    if stream is None:
        stream = images.nbytes > MEMORY_SHARE * min(host_memory(), memory())
    if stream:
        return cast(np.ndarray, images)
    check_memory(images.name, images.shape)
    if cache is None:
        return np.asarray(images)
    arrays = read_arrays(cache) or {}
    if str(arrays.get("fingerprint")) != images.fingerprint:
        arrays = {"images": np.asarray(images), "fingerprint": np.array(images.fingerprint)}
        write_arrays(cache, arrays)
    return arrays["images"]


def _labels(records: encoded.Records, num: int, read: list[int], cache: Path) -> np.ndarray:
    """Labels int32 [num] of a split, kept in a file of the cache.

    Args:
      read: those that were read with the images; empty where the images were not.
    """
    if (arrays := read_arrays(cache)) is None:
        if not read:
            chunks = (range(num)[i : i + encoded.CHUNK] for i in range(0, num, encoded.CHUNK))
            examples = (x for chunk in chunks for x in records.examples(list(chunk)))
            read = [example[records.label_key] for example in examples]
        arrays = {"labels": np.array(read, np.int32)}
        write_arrays(cache, arrays)
    return arrays["labels"]


def check_memory(name: str, shape: tuple[int, ...]) -> None:
    """Images uint8 [N, H, W, C] of that shape fit into the memory of this machine.

    Raises:
      app.UsageError: they do not.
    """
    needed = math.prod(shape)
    if needed > host_memory():
        raise app.UsageError(
            f"dataset {name} at resolution={shape[1]} takes {needed / 2**30:,.0f} GiB, and "
            f"this machine has {host_memory() / 2**30:,.0f}"
        )


def _feature(features: Any, kind: type, usual: str) -> str | None:
    """The name of a feature of that kind: the usual one if it is there."""
    names = [name for name, feature in features.items() if isinstance(feature, kind)]
    return usual if usual in names else next(iter(names), None)


def _prepared(name: str, data_dir: str | None) -> tuple[Any, list[tuple[str, int, int]]]:
    """A data set's builder, and its files with their sizes and times; downloads what is missing."""
    builder = _tfds_builder(name, data_dir)
    if not builder.data_path.exists():
        _prepare(name, builder)
        builder = _tfds_builder(name, data_dir)
    damaged = f"dataset {name} is damaged in {builder.data_path}: delete that folder"
    try:
        stats = {path.name: path.stat() for path in Path(builder.data_path).iterdir()}
    except OSError as error:  # a link to nowhere
        raise app.UsageError(f"{damaged} ({error})") from error
    if "dataset_info.json" not in stats:
        raise app.UsageError(damaged)
    return builder, sorted((file, x.st_size, x.st_mtime_ns) for file, x in stats.items())


def _tfds_builder(name: str, data_dir: str | None) -> Any:
    """The builder of a prepared data set, or one that can prepare it."""
    import tensorflow_datasets as tfds

    from tfds_builders import BUILDERS

    if re.fullmatch(r"\w+(/[\w.-]+)?(:[\d.]+)?", name):  # others TFDS looks for on the network
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # a banner where TensorFlow is missed
                return BUILDERS.get(name, functools.partial(tfds.builder, name))(data_dir=data_dir)
        except tfds.core.DatasetNotFoundError:
            pass
        except Exception as error:  # a version that is not, TensorFlow needed, damage
            raise app.UsageError(f"dataset {name}: {encoded.reason(error)}") from error
    known = ["digits", *BUILDERS, "stacked_mnist", *TOYS]
    listed = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(name, known + listed, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise app.UsageError(
        f"dataset {name!r} does not exist: {hint}there are {', '.join(known)}, folder:PATH and "
        "the image sets of tensorflow-datasets"
    )


def _prepare(name: str, builder: Any) -> None:
    """Downloads a data set into TFDS's folder, or says in one line why that cannot be."""
    import requests

    from tfds_builders import BUILDERS, download_and_prepare

    offline = "configs/digits.py needs no download"
    if name not in BUILDERS:
        raise app.UsageError(
            f"dataset {name} is not prepared in {builder.data_path}: let tensorflow-datasets write "
            f"it there with file_format='array_record'; {offline}"
        )
    for url in {urllib.parse.urljoin(url, "/") for url in builder.url_infos}:
        try:  # TFDS itself would try for minutes
            requests.head(url, timeout=10)
        except requests.RequestException as error:
            raise app.UsageError(
                f"dataset {name} is not in {builder.data_path.parent.parent} and {url} cannot be "
                f"reached to download it; {offline}"
            ) from error
    try:
        download_and_prepare(builder)
    except Exception as error:
        if builder.data_path.exists():  # another process has been faster
            return
        raise app.UsageError(
            f"dataset {name} could not be prepared: {encoded.reason(error)}; {offline}"
        ) from error


def host_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory() -> int:
    """Bytes of memory of a device that trains."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or host_memory()


def cache_folder() -> Path:
    """Where arrays are kept that can be computed again."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "twoplayer"


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What `write_arrays` wrote; None if it is not there or not whole."""
    if not path.is_file():  # a pipe would be waited for, without end
        return None
    arrays = {}
    try:
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                with file.open(name) as member:
                    array = np.lib.format.read_array(member, allow_pickle=False)
                    if member.read(1):  # its header says less; at the end zip checks the content
                        return None
                arrays[name.removesuffix(".npy")] = array
    except Exception:  # of a damaged file: zipfile's, NumPy's or those of its parser of headers
        return None
    names = arrays.pop(NAMES, np.array([]))  # an archive's damaged directory may have lost some
    return arrays if set(names.tolist()) == set(arrays) else None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a file of the cache, whole or not at all; a warning where it cannot."""
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            partial = Path(file.name)
            np.savez(file, **arrays, **{NAMES: np.array(list(arrays))})  # type: ignore[arg-type]
        partial.replace(path)
    except OSError as error:
        logging.warning("could not write %s: %s", path, error)
        if partial:
            partial.unlink(missing_ok=True)

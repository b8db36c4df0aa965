"""Data sets, and which examples a step takes.

`load` returns a data set as arrays; `make_indices` says which examples step k takes, as a pure
function of (key, k); `take` gathers them. The three are apart so that data on the device, streamed
from disk, or split over hosts share the second.
"""

from __future__ import annotations

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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, logging
from ml_collections import ConfigDict
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TOY_SIZE = 100_000


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
    """A data set in memory.

    Attributes:
      images: uint8 [N, H, W, C], or float32 [N, 2] of a toy.
      labels: int32 [N], or None.
    """

    images: np.ndarray
    labels: np.ndarray | None

    @property
    def spec(self) -> Spec:
        num_classes = None if self.labels is None else int(self.labels.max()) + 1
        return Spec(self.images.shape[1:], num_classes)


def load(config: ConfigDict) -> Dataset:
    """The training examples of `config.dataset`, at `config.resolution` if that is set.

    Raises:
      app.UsageError: the data set does not exist, is not there, is damaged, or cannot be made of
        that resolution, in one line.
    """
    name = config.dataset
    if name in TOYS:
        return TOYS[name]()
    if name == "digits":
        return digits(config.resolution)
    if name.startswith("folder:"):
        return folder(Path(name.removeprefix("folder:")), config.resolution)
    return tfds_images(name, config.data_dir, config.resolution)


def make_indices(
    key: jax.Array,
    num_examples: int,
    shape: tuple[int, ...],
    labels: np.ndarray | None = None,
) -> Callable[[int], np.ndarray]:
    """The function `indices(step)`: which examples a step takes, an int32 array of `shape`.

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
        epoch_key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(key_data)), epoch)
        bits = np.asarray(jax.random.bits(epoch_key, (2, num_examples)))
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

    def indices(step: int) -> np.ndarray:
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), num_examples)
        taken = [order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(taken).astype(np.int32).reshape(shape)

    return indices


def take(examples: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
    """A batch: {'images': [N, ...], 'labels': [N]} at `indices` of any shape."""
    return jax.tree.map(lambda array: jnp.take(array, indices, axis=0), examples)


def digits(resolution: int | None) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8, from its package: no download.

    Source: Alpaydin and Kaynak 1998, UCI optical recognition of handwritten digits.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.round(source.images * (255 / 16)).astype(np.uint8)
    pictures = [Image.fromarray(image) for image in images]
    return Dataset(_stack("digits", pictures, "L", resolution), source.target.astype(np.int32))


def ring() -> Dataset:
    """8 Gaussians of deviation 0.02 on a circle of radius 1 (Metz et al. 2017)."""
    angles = 2 * np.pi * np.arange(8) / 8
    return _gaussians(np.stack([np.cos(angles), np.sin(angles)], axis=1), deviation=0.02)


def grid() -> Dataset:
    """25 Gaussians of deviation 0.0125 on a grid in [-1, 1].

    The grid of Lin et al. 2018 (PacGAN): spacing 2, deviation 0.05, here divided by 4.
    """
    axis = np.linspace(-1, 1, 5)
    return _gaussians(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), deviation=0.0125)


TOYS = {f.__name__: f for f in (ring, grid)}


def folder(path: Path, resolution: int | None) -> Dataset:
    """The images below a folder; where there are sub-folders, they are the classes.

    Grey where every image is grey, RGB otherwise. Without a `resolution` all images must have one
    square size; with one they are cropped to their central square and resized.

    Raises:
      app.UsageError: no image is there, or one is damaged or has another size (it is named).
    """
    if not path.is_dir():
        raise app.UsageError(f"dataset folder:{path}: there is no such folder")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise app.UsageError(f"dataset folder:{path}: no image ({', '.join(IMAGE_SUFFIXES)}) in it")
    pictures = []
    for file in files:
        try:
            with Image.open(file) as picture:
                if picture.mode[0] in "IF":
                    raise ValueError(f"its mode is {picture.mode}, not 8 bits a channel")
                pictures.append(picture.convert("L" if picture.mode in ("L", "1") else "RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise app.UsageError(f"{file} cannot be read: {error}") from error
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    images = _stack(f"folder:{path}", pictures, mode, resolution)
    classes = [file.relative_to(path).parts[0] for file in files]
    if any(file.parent == path for file in files):
        return Dataset(images, None)
    return Dataset(images, np.unique(classes, return_inverse=True)[1].astype(np.int32))


def tfds_images(name: str, data_dir: str | None, resolution: int | None) -> Dataset:
    """The train split of a TFDS data set that has an image; its class label where it has one.

    Prepared array_record data is read without TensorFlow. What is not prepared is downloaded first
    (tfds_builders.py, without TensorFlow, for the sets it has). The arrays are cached in the user's
    cache folder, by a fingerprint of the files they were read from.

    Raises:
      app.UsageError: unknown, not there and not to be had, or of no use here.
    """
    import tensorflow_datasets as tfds

    builder = _tfds_builder(name, data_dir)
    if not builder.data_path.exists():
        _prepare(name, builder)
    damaged = f"dataset {name} is damaged in {builder.data_path}: delete that folder"
    if not (builder.data_path / "dataset_info.json").exists():
        raise app.UsageError(damaged)
    info = builder.info
    found = [key for key, f in info.features.items() if isinstance(f, tfds.features.Image)]
    if not found or "train" not in info.splits:
        raise app.UsageError(f"dataset {name} has no image or no train split")
    stats = {path.name: path.stat() for path in Path(builder.data_path).iterdir()}
    files = sorted((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items())
    fingerprint = hashlib.sha256(json.dumps([info.full_name, files, resolution]).encode())
    stem = info.full_name.replace("/", "-")
    cache = _cache_folder() / f"{stem}-{fingerprint.hexdigest()[:16]}.npz"
    if (dataset := _read_cache(cache)) is not None:
        return dataset

    image_key = found[0]
    label_keys = [k for k, f in info.features.items() if isinstance(f, tfds.features.ClassLabel)]
    label_key = "label" if "label" in label_keys else next(iter(label_keys), None)
    decoders = {image_key: tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source("train", decoders=decoders)
    except NotImplementedError as error:
        raise app.UsageError(
            f"{builder.data_path} is not in the array_record format: name another --config.data_dir"
        ) from error
    try:
        examples = source.__getitems__(range(len(source)))  # type: ignore[attr-defined]
        pictures = [_decode(example[image_key]) for example in examples]
    except (RuntimeError, OSError, ValueError) as error:  # array_record's, and Pillow's
        raise app.UsageError(f"{damaged} ({str(error).splitlines()[0][:100]})") from error
    mode = "L" if info.features[image_key].shape[-1] == 1 else "RGB"
    images = _stack(name, pictures, mode, resolution)
    labels = None
    if label_key is not None:
        labels = np.array([example[label_key] for example in examples], np.int32)
    dataset = Dataset(images, labels)
    _write_cache(cache, dataset)
    return dataset


def _tfds_builder(name: str, data_dir: str | None) -> Any:
    """The builder of a prepared data set, or one that can prepare it."""
    import tensorflow_datasets as tfds

    from tfds_builders import BUILDERS

    try:
        if name in BUILDERS:
            return BUILDERS[name](data_dir=data_dir)
        if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\d.]+)?", name):
            raise ValueError("TFDS would look for it on the network")
        return tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # TFDS has many for a name that it cannot resolve
        known = ["digits", *BUILDERS, *TOYS]
        close = difflib.get_close_matches(
            name, known + tfds.list_builders(with_community_datasets=False), 1
        )
        hint = f"did you mean {close[0]}? " if close else ""
        raise app.UsageError(
            f"dataset {name!r} does not exist: {hint}there are {', '.join(known)}, folder:PATH and "
            "the image sets of tensorflow-datasets"
        ) from error


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
        reason = str(error).strip().splitlines()[0]
        raise app.UsageError(
            f"dataset {name} could not be prepared: {reason}; {offline}"
        ) from error


def _gaussians(centres: np.ndarray, deviation: float) -> Dataset:
    """TOY_SIZE points, equally many around each centre; their centre is their label."""
    noise = np.random.default_rng(0).normal(0, deviation, (TOY_SIZE, 2))
    labels = np.arange(TOY_SIZE, dtype=np.int32) % len(centres)
    return Dataset((centres[labels] + noise).astype(np.float32), labels)


def _decode(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        return picture


def _stack(name: str, pictures: list[Image.Image], mode: str, resolution: int | None) -> np.ndarray:
    """Pictures as uint8 [N, size, size, C]: cropped to the central square, resized if need be."""
    if resolution is not None and resolution < 1:
        raise app.UsageError(f"resolution must be at least 1, not {resolution}")
    sizes = sorted({picture.size for picture in pictures})
    if resolution is None and (len(sizes) > 1 or sizes[0][0] != sizes[0][1]):
        shown = ", ".join(f"{w}x{h}" for w, h in sizes[:3])
        raise app.UsageError(
            f"dataset {name} has images of {shown}: set --config.resolution to resize them"
        )
    size = (resolution or sizes[0][0],) * 2
    images = []
    for picture in pictures:
        picture = picture.convert(mode)
        if picture.size != size:
            picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        images.append(np.asarray(picture))
    return np.stack(images).reshape(len(images), *size, -1)


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "twoplayer"


def _read_cache(path: Path) -> Dataset | None:
    """What `_write_cache` wrote; None if it is not there or not whole."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Dataset(arrays["images"], arrays.get("labels"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write_cache(path: Path, dataset: Dataset) -> None:
    arrays = {k: v for k, v in dataset._asdict().items() if v is not None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez(file, **arrays)
        os.replace(file.name, path)
    except OSError as error:
        logging.warning("could not cache the data set in %s: %s", path, error)

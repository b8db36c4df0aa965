"""Data sets, and which examples a step takes.

`load` returns a data set as arrays; `make_indices` says which examples step k takes, as a pure
function of (key, k); `take` gathers them. The three are apart so that data on the device, streamed
from disk, or split over hosts share the second.
"""

from __future__ import annotations

import contextlib
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
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, logging
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
NAMES = "names"  # of the arrays in a file of the cache, beside them
PNG_END = b"IEND\xaeB`\x82"
TOY_SIZE = 100_000
DIGITS_HELD_OUT = 500
STACKED_SIZE = {"train": 128_000, "test": 26_000}


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
        return folder(Path(os.path.expanduser(name.removeprefix("folder:"))), config.resolution)
    if name == "stacked_mnist":
        return stacked_mnist(config.data_dir, config.resolution)
    dataset = tfds_images(name, config.data_dir, config.resolution)
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
    pictures = (Image.fromarray(image) for image in images)
    stacked = _stack("digits", pictures, len(images), resolution)
    return Dataset(stacked, source.target[chosen].astype(np.int32), 10)


def stacked_mnist(data_dir: str | None, resolution: int | None, split: str = "train") -> Dataset:
    """Three digits of MNIST, drawn at random, as the channels of an image: 1,000 classes.

    The first channel's digit is the hundreds of the class. A split's images are drawn from MNIST's
    own split, always the same.
    Source: Metz et al. 2017; Lin et al. 2018 (PacGAN).
    """
    mnist = tfds_images("mnist", data_dir, resolution, split)
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


def folder(path: Path, resolution: int | None) -> Dataset:
    """The images below a folder; where there are sub-folders, they are the classes.

    Grey where every image is grey, RGB otherwise. Without a `resolution` all images must have one
    square size; with one they are cropped to their central square and resized.

    Raises:
      app.UsageError: no image is there, or one is damaged or has another size (it is named).
    """
    if not path.is_dir():
        raise app.UsageError(f"dataset folder:{path}: there is no such folder")
    try:
        files = sorted(_image_files(path, set()))
    except OSError as error:
        raise app.UsageError(f"dataset folder:{path}: {error}") from error
    if not files:
        raise app.UsageError(f"dataset folder:{path}: no image ({', '.join(IMAGE_SUFFIXES)}) in it")
    images = _stack(f"folder:{path}", map(_read_image, files), len(files), resolution)
    if any(file.parent == path for file in files):
        return Dataset(images)
    classes = [file.relative_to(path).parts[0] for file in files]
    names, labels = np.unique(classes, return_inverse=True)
    return Dataset(images, labels.astype(np.int32), len(names))


def _image_files(folder: Path, above: set[Path]) -> Iterator[Path]:
    """The images in a folder and those below it: what links lead to, but nothing hidden."""
    if folder.resolve() in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _image_files(path, above | {folder.resolve()})
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def _read_image(file: Path) -> Image.Image:
    """A picture, upright as its camera says, in mode L or RGB; anything wrong with it is named."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow only warns of some truncated files
            warnings.filterwarnings("ignore", "Palette images with Transparency")
            if file.exists() and not file.is_file():  # a pipe would be waited for, without end
                raise ValueError("it is no file")
            content = file.read_bytes()
            with Image.open(io.BytesIO(content)) as picture:
                picture.verify()  # a PNG's chunks, to the last of which decoding does not get
                if picture.format == "PNG" and PNG_END not in content:
                    raise ValueError("its end is missing")
            with Image.open(io.BytesIO(content)) as picture:
                if picture.mode[0] in "IF":
                    raise ValueError(f"its mode is {picture.mode}, not 8 bits a channel")
                mode = "L" if picture.mode in ("L", "LA", "1") else "RGB"
                return ImageOps.exif_transpose(picture).convert(mode)
    except UnidentifiedImageError as error:
        raise app.UsageError(f"{file} cannot be read: it is no image") from error
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        raise app.UsageError(f"{file} cannot be read: {_reason(error)}") from error


def tfds_images(
    name: str, data_dir: str | None, resolution: int | None, split: str = "train"
) -> Dataset | None:
    """A split of a TFDS data set that has an image; its class label where it has one.

    Prepared array_record data is read without TensorFlow. What is not prepared is downloaded first
    (tfds_builders.py, without TensorFlow, for the sets it has). The arrays are cached in the user's
    cache folder, by a fingerprint of the files they were read from.

    Raises:
      app.UsageError: unknown, not there and not to be had, or of no use here.
    """
    import tensorflow_datasets as tfds

    builder = _tfds_builder(name, data_dir and os.path.expanduser(data_dir))
    if not builder.data_path.exists():
        _prepare(name, builder)
    damaged = f"dataset {name} is damaged in {builder.data_path}: delete that folder"
    if not (builder.data_path / "dataset_info.json").exists():
        raise app.UsageError(damaged)
    info = builder.info
    image_key = _feature(info.features, tfds.features.Image, "image")
    label_key = _feature(info.features, tfds.features.ClassLabel, "label")
    if image_key is None:
        raise app.UsageError(f"dataset {name} has no image")
    if split not in info.splits:
        return None
    num_classes = info.features[label_key].num_classes if label_key else None
    try:
        stats = {path.name: path.stat() for path in Path(builder.data_path).iterdir()}
    except OSError as error:  # a link to nowhere
        raise app.UsageError(f"{damaged} ({error})") from error
    files = sorted((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items())
    fingerprint = hashlib.sha256(json.dumps([info.full_name, files, resolution]).encode())
    stem = f"{info.full_name.replace('/', '-')}-{split}"
    cache = cache_folder() / f"{stem}-{fingerprint.hexdigest()[:16]}.npz"
    if (arrays := read_arrays(cache)) is not None:
        return _dataset(arrays, num_classes)

    decoders = {image_key: tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
        raise app.UsageError(
            f"{builder.data_path} is not in the array_record format: name another --config.data_dir"
        ) from error
    mode = "L" if info.features[image_key].shape[-1] == 1 else "RGB"
    try:
        examples = source.__getitems__(range(len(source)))  # type: ignore[attr-defined]
        pictures = (
            Image.open(io.BytesIO(example[image_key])).convert(mode) for example in examples
        )
        images = _stack(name, pictures, len(examples), resolution)
    except (RuntimeError, OSError, ValueError, SyntaxError) as error:  # array_record's, Pillow's
        raise app.UsageError(f"{damaged} ({_reason(error)[:100]})") from error
    arrays = {"images": images}
    if label_key is not None:
        labels = np.array([example[label_key] for example in examples], np.int32)
        if labels.min() >= 0:  # TFDS says -1 where a label is not known
            arrays["labels"] = labels
    write_arrays(cache, arrays)
    return _dataset(arrays, num_classes)


def _dataset(arrays: dict[str, np.ndarray], num_classes: int | None) -> Dataset:
    labels = arrays.get("labels")
    return Dataset(arrays["images"], labels, None if labels is None else num_classes)


def _feature(features: Any, kind: type, usual: str) -> str | None:
    """The name of a feature of that kind: the usual one if it is there."""
    names = [name for name, feature in features.items() if isinstance(feature, kind)]
    return usual if usual in names else next(iter(names), None)


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
            raise app.UsageError(f"dataset {name}: {_reason(error)}") from error
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
        raise app.UsageError(
            f"dataset {name} could not be prepared: {_reason(error)}; {offline}"
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def host_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _stack(
    name: str, pictures: Iterable[Image.Image], num: int, resolution: int | None
) -> np.ndarray:
    """Pictures of mode L or RGB, one after the other, as uint8 [N, size, size, C].

    With a resolution they are cropped to the central square and resized; C is 1 if all are grey.
    """
    if resolution is not None:
        if resolution < 1:
            raise app.UsageError(f"resolution must be at least 1, not {resolution}")
        needed = 3 * num * resolution**2
        if needed > host_memory():
            raise app.UsageError(
                f"dataset {name} at resolution={resolution} takes {needed / 2**30:,.0f} GiB, and "
                f"this machine has {host_memory() / 2**30:,.0f}"
            )
    images: list[np.ndarray] = []
    for picture in pictures:
        if resolution is not None and picture.size != (resolution, resolution):
            picture = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
        images.append(np.asarray(picture))
        height, width = images[-1].shape[:2]
        if height != width or images[-1].shape[:2] != images[0].shape[:2]:
            first = f"{images[0].shape[1]}x{images[0].shape[0]}"
            sizes = ", ".join(dict.fromkeys((first, f"{width}x{height}")))
            raise app.UsageError(
                f"dataset {name} has images of {sizes}: they must be square and "
                "of one size, or be given a resolution"
            )
    if len({image.ndim for image in images}) > 1:
        images = [np.broadcast_to(x.reshape(*x.shape[:2], -1), (*x.shape[:2], 3)) for x in images]
    return np.stack(images).reshape(len(images), height, width, -1)


def cache_folder() -> Path:
    """Where arrays are kept that can be computed again."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "twoplayer"


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What `write_arrays` wrote; None if it is not there or not whole."""
    if not path.is_file():  # a pipe would be waited for, without end
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    # RuntimeError is zipfile's, of a file that calls itself encrypted, or of a later version.
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile):
        return None
    names = arrays.pop(NAMES, np.array([]))  # an archive's damaged directory may have lost some
    return arrays if set(names.tolist()) == set(arrays) else None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a file of the cache, whole or not at all; a warning where it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez(file, **arrays, **{NAMES: np.array(list(arrays))})  # type: ignore[arg-type]
        os.replace(file.name, path)
    except OSError as error:
        logging.warning("could not write %s: %s", path, error)

"""Images in files and in records, decoded where they are asked for.

`Images` reads like an array of them all. `index` is what is known of a folder's files without
decoding one: found once, and checked later by sizes and times alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CHUNK = 1_000  # that are read at a time
PNG_END = b"IEND\xaeB`\x82"
GREY = ("L", "LA", "1")  # modes
ANY_SIZE = "they must be square and of one size, or be given a resolution"


@dataclasses.dataclass(frozen=True)
class Files:
    """A folder's images, as an index has them.

    Attributes:
      root: the folder.
      names: uint8, of the files in it, with \\0 between.
      ends: int [N]: where each name ends.
    """

    root: str
    names: np.ndarray
    ends: np.ndarray

    def pictures(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Pictures, upright as their cameras say, in mode L or RGB.

        Raises:
          app.UsageError: a file is damaged, and which.
        """
        for i in indices:
            name = self.names[self.ends[i - 1] + 1 if i else 0 : self.ends[i]]
            yield _read(f"{self.root}/{os.fsdecode(name.tobytes())}")


@dataclasses.dataclass(frozen=True)
class Records:
    """A split of prepared TFDS data, in the array_record format.

    Attributes:
      name: of the data set.
      folder: that its files are in.
      split: train or test.
      image_key: of the feature that is the image.
      mode: of the pictures, L or RGB.
      label_key: of the feature that is the label, if there is one.
      labels: where it is a list, those of the pictures that are read are put at its end: a record
        takes as long to read as its picture to decode.
    """

    name: str
    folder: str
    split: str
    image_key: str
    mode: str
    label_key: str = ""
    labels: list[int] | None = dataclasses.field(default=None, compare=False)

    def pictures(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Pictures of mode `mode`.

        Raises:
          app.UsageError: a record is damaged, and which.
        """
        for i, example in zip(indices, self.examples(indices)):
            try:
                picture = Image.open(io.BytesIO(example[self.image_key])).convert(self.mode)
            except (OSError, ValueError, SyntaxError) as error:
                raise self._damaged(error, i) from error
            if self.labels is not None:
                self.labels.append(example[self.label_key])
            yield picture

    def examples(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The features of examples by their names, their images as they are encoded.

        Raises:
          app.UsageError: a record is damaged, and which; or the format is another one.
        """
        try:
            return self._source.__getitems__(indices)
        except (RuntimeError, OSError, ValueError, IndexError) as error:
            for i in indices:  # together they are read 20 times as fast, and none is named
                try:
                    self._source[i]
                except (RuntimeError, OSError, ValueError, IndexError) as its_own:
                    raise self._damaged(its_own, i) from its_own
            raise self._damaged(error) from error

    @functools.cached_property
    def _source(self) -> Any:
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(self.folder)
            decoders = {self.image_key: tfds.decode.SkipDecoding()}
            return builder.as_data_source(self.split, decoders=decoders)
        except NotImplementedError as error:
            raise app.UsageError(
                f"{self.folder} is not in the array_record format: name another --config.data_dir"
            ) from error
        except (RuntimeError, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the files itself."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _damaged(self, error: BaseException, record: int | None = None) -> app.UsageError:
        which = "" if record is None else f", record {record:,} of {self.split}"
        return app.UsageError(
            f"dataset {self.name} is damaged in {self.folder}{which}: delete that folder "
            f"({reason(error)[:100]})"
        )


@dataclasses.dataclass(frozen=True)
class Images:
    """Images uint8 [N, H, W, C] that are decoded at each `images[3:9]` or `images[array]`.

    Attributes:
      name: of the data set.
      source: of the pictures.
      shape: N, H, W, C.
      resized: to H and W, from the central square; otherwise all must be of that size.
      fingerprint: of files and shape; equal ones are equal images.
    """

    name: str
    source: Files | Records
    shape: tuple[int, ...]
    resized: bool
    fingerprint: str
    dtype = np.dtype(np.uint8)
    itemsize = 1

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Of all when they are decoded."""
        return int(np.prod(self.shape, dtype=object))

    def __getitem__(self, which: slice | int | np.ndarray) -> np.ndarray:
        """uint8 [..., H, W, C], at a slice, or at non-negative integers of any shape.

        Raises:
          IndexError: there are fewer.
          app.UsageError: one is damaged, or has another size or colour than it had.
        """
        chosen = range(len(self))[which] if isinstance(which, slice) else which
        indices = np.asarray(chosen, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{self.name} has {len(self)} images")
        images = np.empty((indices.size, *self.shape[1:]), np.uint8)
        for image, picture in zip(images, self.source.pictures(indices.ravel().tolist())):
            image[...] = self._array(picture)
        return images.reshape(*indices.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, in memory."""
        images = np.empty(self.shape, np.uint8)
        for start in range(0, len(self), CHUNK):
            images[start : start + CHUNK] = self[start : start + CHUNK]
        return images.astype(dtype or np.uint8, copy=False)

    def _array(self, picture: Image.Image) -> np.ndarray:
        height, width, channels = self.shape[1:]
        if self.resized:
            picture = fit(picture, width)
        if picture.size != (width, height):
            sizes = f"{width}x{height}, {picture.width}x{picture.height}"
            raise app.UsageError(f"dataset {self.name} has images of {sizes}: {ANY_SIZE}")
        if channels == 3:
            picture = picture.convert("RGB")
        elif picture.mode != "L":
            raise app.UsageError(f"dataset {self.name} was grey, and now has images in colour")
        return np.asarray(picture).reshape(height, width, channels)


def fit(picture: Image.Image, resolution: int) -> Image.Image:
    """The central square of a picture, resized where it has another size."""
    if picture.size == (resolution, resolution):
        return picture
    return ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)


def index(root: str, known: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """What is known of the images below a folder; `known` itself where it still holds.

    That takes a look at each file's size and time and each folder's time. Where one differs all
    are listed anew, and headers are read of the files that are new or have changed.

    Args:
      root: the folder.
      known: its index of before.
    Returns:
      `files`: uint8, the files' names in the folder with \\0 between, sorted by their parts;
      `ends`: int64 [N] of them; `stats`: int64 [N, 2], size and time of change; `headers`: int32
      [N, 3], width, height and 1 of a grey picture, 3 of others; `folders` and `folder_times`: of
      the folder and those below it, as names and times; `labels`: int32 [N], where all files are
      in sub-folders, which are the classes.
    Raises:
      app.UsageError: a file's header is damaged, and which.
      OSError: a folder cannot be read.
    """
    if known and _holds(root, known):
        return known
    found = sorted(_below(root, "", set()), key=lambda entry: entry.name.split("/"))
    files, folders = ([x for x in found if x.is_file is wanted] for wanted in (True, False))
    headers = {}
    if known:
        stats, sizes = (known[key].tolist() for key in ("stats", "headers"))
        headers = {(n, *s): h for n, s, h in zip(_split(known["files"]), stats, sizes)}
    names = [file.name for file in files]
    result = {
        "files": _join(names),
        "ends": np.cumsum([len(os.fsencode(name)) + 1 for name in names], dtype=np.int64) - 1,
        "stats": np.array([file[1:3] for file in files], np.int64).reshape(-1, 2),
        "headers": np.array(
            [headers.get(file[:3]) or _header(f"{root}/{file.name}") for file in files], np.int32
        ),
        "folders": _join([folder.name for folder in folders]),
        "folder_times": np.array([folder.time for folder in folders], np.int64),
    }
    if names and all("/" in name for name in names):
        tops = [name.partition("/")[0] for name in names]
        _, labels = np.unique(tops, return_inverse=True)
        result["labels"] = labels.astype(np.int32)
    return result


def _holds(root: str, known: dict[str, np.ndarray]) -> bool:
    """Whether folders and files are as an index has them."""
    folders = zip(_split(known["folders"]), known["folder_times"].tolist())
    files = zip(_split(known["files"]), known["stats"].tolist())
    try:
        if any(os.stat(f"{root}/{name}").st_mtime_ns != time for name, time in folders):
            return False
        looked = ((os.stat(f"{root}/{name}"), old) for name, old in files)
        return all([now.st_size, now.st_mtime_ns] == old for now, old in looked)
    except OSError:
        return False


class _Entry(NamedTuple):
    """A folder or a file: its name in the root, its size and time of change."""

    name: str
    size: int
    time: int
    is_file: bool


def _below(root: str, inside: str, above: set[str]) -> Iterator[_Entry]:
    """A folder and all images below it.

    It goes where links lead, but into nothing that is hidden.
    """
    here = os.path.realpath(f"{root}/{inside}")
    if here in above:
        return
    at = os.stat(here)  # before it is listed: what comes in between is found at the next start
    yield _Entry(inside, at.st_size, at.st_mtime_ns, False)
    with os.scandir(here) as entries:
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _below(root, name, above | {here})
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                try:
                    its = entry.stat()
                except FileNotFoundError:  # a link to nowhere: its header cannot be read
                    its = entry.stat(follow_symlinks=False)
                yield _Entry(name, its.st_size, its.st_mtime_ns, True)


def _join(names: Sequence[str]) -> np.ndarray:
    return np.frombuffer(b"\0".join(map(os.fsencode, names)), np.uint8)


def _split(names: np.ndarray) -> list[str]:
    return [os.fsdecode(name) for name in names.tobytes().split(b"\0")] if names.size else [""]


def _header(file: str) -> tuple[int, int, int]:
    """Width, height, and 1 of a grey picture or 3; nothing is decoded."""
    with _named(file), Image.open(file) as picture:
        _check_mode(picture)
        return (*picture.size, 1 if picture.mode in GREY else 3)


def _read(file: str) -> Image.Image:
    """A picture, upright as its camera says, in mode L or RGB; anything wrong with it is named."""
    with _named(file):
        with open(file, "rb") as opened:
            content = opened.read()
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()  # a PNG's chunks, to the last of which decoding does not get
            if picture.format == "PNG" and PNG_END not in content:
                raise ValueError("its end is missing")
        with Image.open(io.BytesIO(content)) as picture:
            _check_mode(picture)
            upright = ImageOps.exif_transpose(picture)
            return upright.convert("L" if picture.mode in GREY else "RGB")


def _check_mode(picture: Image.Image) -> None:
    if picture.mode[0] in "IF":
        raise ValueError(f"its mode is {picture.mode}, not 8 bits a channel")


@contextlib.contextmanager
def _named(file: str) -> Iterator[None]:
    """Whatever is wrong with a file is an app.UsageError that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow only warns of some truncated files
            warnings.filterwarnings("ignore", "Palette images with Transparency")
            if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for, without end
                raise ValueError("it is no file")
            yield
    except UnidentifiedImageError as error:
        raise app.UsageError(f"{file} cannot be read: it is no image") from error
    except Exception as error:  # Pillow's, and of what it parses by: struct's, and TypeErrors
        raise app.UsageError(f"{file} cannot be read: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

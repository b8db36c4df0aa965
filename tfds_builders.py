"""TFDS builders that prepare MNIST, Fashion-MNIST and CIFAR-10 without TensorFlow.

They are TFDS's own builders (names, versions, URLs, checksums, features), so that what they prepare
is what TFDS finds, and TFDS's download manager fetches and checks the files. Only the two steps for
which TFDS calls TensorFlow are done otherwise: opening the originals, and encoding images as PNG.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.image_classification import cifar, mnist

IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped idx file of unsigned bytes (LeCun's format).

    Raises:
      ValueError: the file is not such a file, or ends too soon.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no idx file of unsigned bytes")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4")
    if len(content) != start + shape.prod(dtype=np.int64):
        raise ValueError(f"{path} has {len(content)} bytes, its header says {tuple(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _examples(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield i, {"image": Image.fromarray(image), "label": int(label)}


class Mnist(mnist.MNIST, skip_registration=True):
    """MNIST from its four idx files."""

    name = "mnist"
    url_infos = mnist.MNIST.url_infos

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        paths = dl_manager.download(
            {split: [self.URL + file for file in files] for split, files in IDX_FILES.items()}
        )
        return {
            split: _examples(*(read_idx(file) for file in files)) for split, files in paths.items()
        }


class FashionMnist(mnist.FashionMNIST, Mnist, skip_registration=True):
    """Fashion-MNIST, which is laid out as MNIST is."""

    name = "fashion_mnist"
    url_infos = mnist.FashionMNIST.url_infos
    _split_generators = Mnist._split_generators


class Cifar10(cifar.Cifar10, skip_registration=True):
    """CIFAR-10 from its binary archive: records of a label and 3 x 32 x 32 bytes."""

    name = "cifar10"
    url_infos = cifar.Cifar10.url_infos

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        source = self._cifar_info
        files = {}
        # Members are read by name in memory: nothing in the archive is written anywhere.
        with tarfile.open(dl_manager.download(source.url)) as archive:
            for name in (*source.train_files, *source.test_files, *source.label_files):
                member = archive.extractfile(source.prefix + name)
                if member is None:
                    raise ValueError(f"{source.prefix}{name} is no file in {source.url}")
                files[name] = member.read()
        label_names = files[source.label_files[0]].decode().split()
        self.info.features["label"].names = label_names
        splits = {"train": source.train_files, "test": source.test_files}
        return {
            split: self._records(split, b"".join(files[name] for name in names))
            for split, names in splits.items()
        }

    def _records(self, split: str, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        for i, example in _examples(np.ascontiguousarray(images), records[:, 0]):
            yield i, example | {"id": f"{split}_{i:05d}"}


BUILDERS = {builder.name: builder for builder in (Mnist, FashionMnist, Cifar10)}


def download_and_prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Downloads a data set, checks it against TFDS's checksums, writes it as array_record."""
    config = tfds.download.DownloadConfig(force_checksums_validation=True)
    builder.download_and_prepare(file_format="array_record", download_config=config)

"""The networks that metrics look through, and the sole owner of their weights.

A `View` maps images to features and logits. `VIEWS` has a function for each kind: the data set's
own classifier, whose weights are part of this repository, and FID's Inception-v3. To look through
another network is one more function there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from flax import traverse_util
from safetensors.numpy import load
from tqdm import tqdm

import data
import devices
import inception as inception_network
import torch_files

Apply = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
STACKED = "stacked_mnist"
WEIGHTS = Path(__file__).parent / "weights"
BATCH_SIZE = 50  # Inception's activations of so many take half a GB
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class Classifier(nn.Module):
    """A small residual network: its last hidden layer, averaged over the image, and its logits.

    A 3x3 convolution, then for each further width one of stride 2 and a residual one of stride 1,
    all followed by batch normalisation and ReLU.
    """

    num_classes: int
    widths: tuple[int, ...] = (32, 64, 128)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Images uint8 [B, H, W, C] to features [B, widths[-1]] and logits [B, num_classes]."""

        def block(inputs: jax.Array, width: int, stride: int) -> jax.Array:
            outputs = nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(inputs)
            return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(outputs))

        hidden = block(images.astype(jnp.float32) / 127.5 - 1, self.widths[0], stride=1)
        for width in self.widths[1:]:
            hidden = block(hidden, width, stride=2)
            hidden += block(hidden, width, stride=1)
        features = hidden.mean((1, 2))
        return features, nn.Dense(self.num_classes)(features)


def read_index() -> dict[str, dict[str, Any]]:
    """What the classifiers are, by data set: file, sha256, shape, widths, accuracy, command."""
    return json.loads((WEIGHTS / "index.json").read_text())


class View(NamedTuple):
    """A network that metrics look through, its weights inside.

    Attributes:
      suffix: of the names of metrics: `fd_classifier` is a distance seen through the classifier.
      fingerprint: of the weights and of how images come to the network.
      apply: images uint8 [B, H, W, C] to features float32 [B, D] and logits [B, K].
      num_classes: K, where the logits are of the data set's own classes; else None.
    """

    suffix: str
    fingerprint: str
    apply: Apply
    num_classes: int | None


def classifier(dataset: str, shape: tuple[int, ...], weights: str | None = None) -> View:
    """The data set's own classifier (scripts/train_classifier.py), part of this repository.

    Of stacked MNIST it is MNIST's, which looks at each channel by itself (Lin et al. 2018).

    Args:
      dataset: its name.
      shape: of an image.
      weights: unused; a classifier's are where `read_index` says.
    Raises:
      app.UsageError: the data set has none, for images of that shape, or its file is damaged.
    """
    if not has_classifier(dataset, shape):
        known = [f"{name} {'x'.join(map(str, x['shape']))}" for name, x in read_index().items()]
        raise app.UsageError(
            f"no classifier for {dataset} of {'x'.join(map(str, shape))}: there are "
            f"{', '.join(known)}"
        )
    stacked = dataset == STACKED
    name = "mnist" if stacked else dataset
    entry, file = read_index()[name], WEIGHTS / f"{name}.safetensors"
    content = _read_verified(file, entry["sha256"])
    stored = traverse_util.unflatten_dict(load(content), sep="/")
    variables = jax.tree.map(lambda x: x.astype(np.float32), stored)
    network = Classifier(entry["num_classes"], tuple(entry["widths"]))

    @jax.jit
    def apply(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs: Any = network.apply(variables, devices.split(images), train=False)
        return devices.join(outputs)

    if stacked:
        return View("classifier", f"{entry['sha256']} {STACKED}", _by_channel(apply), 1_000)
    return View("classifier", entry["sha256"], apply, entry["num_classes"])


def has_classifier(dataset: str, shape: tuple[int, ...]) -> bool:
    """Whether there is a classifier of the data set's images of this shape."""
    if dataset == STACKED:
        return has_classifier("mnist", (*shape[:2], 1))
    return read_index().get(dataset, {}).get("shape") == list(shape)


def _by_channel(apply: Apply) -> Apply:
    """The features of three channels side by side, and the logits of K^3 classes.

    A sum of the channels' logits: the largest is where each channel's is.
    """

    def apply_to_each(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        (x, a), (y, b), (z, c) = (apply(images[..., channel, None]) for channel in range(3))
        joint = a[:, :, None, None] + b[:, None, :, None] + c[:, None, None, :]  # [B, K, K, K]
        return jnp.concatenate([x, y, z], axis=1), joint.reshape(len(images), -1)

    return jax.jit(apply_to_each)


def compute(view: View, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [N, D] and logits float32 [N, K] of images uint8 [N, H, W, C].

    In batches, at matmul precision 'highest', so that an accelerator's shortcuts move no score.
    """
    outputs = []
    with jax.default_matmul_precision("highest"):
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE]
            missing = BATCH_SIZE - len(batch)  # one shape, so one compilation
            padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
            outputs.append([np.asarray(x)[: len(batch)] for x in view.apply(jnp.asarray(padded))])
    features, logits = (np.concatenate(parts) for parts in zip(*outputs))
    return features, logits


def inception(
    dataset: str, shape: tuple[int, ...], weights: str | None = None, resizing: str = "tensorflow"
) -> View:
    """FID's Inception-v3, images resized as TensorFlow 1 did: torch-fidelity's and StyleGAN's FID.

    Args:
      dataset: unused; the network is the same for all.
      shape: of an image: grey ones are repeated to three channels.
      weights: the published file; None: the cache folder's, downloaded where it is not there.
      resizing: a name in `inception.RESIZINGS`.
    Raises:
      app.UsageError: the weights are not there and not to be had, or are not the published ones.
    """
    file = Path(os.path.expanduser(weights)) if weights else data.cache_folder() / INCEPTION_FILE
    if not weights and not file.exists():
        _download(INCEPTION_URL, file, INCEPTION_SHA256)
    _read_verified(file, INCEPTION_SHA256)
    variables = inception_network.convert(torch_files.read(file))
    network, resize = inception_network.InceptionV3(), inception_network.RESIZINGS[resizing]

    @jax.jit
    def apply(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs: Any = network.apply(variables, resize(devices.split(images)))
        return devices.join((outputs.features, outputs.logits_without_bias))

    suffix = "inception" if resizing == "tensorflow" else f"inception_{resizing}"
    return View(suffix, f"{INCEPTION_SHA256} {resizing}", apply, None)


def inception_pytorch_fid(dataset: str, shape: tuple[int, ...], weights: str | None = None) -> View:
    """`inception` with images resized and scaled as pytorch-fid does."""
    return inception(dataset, shape, weights, "pytorch_fid")


def inception_clean_fid(dataset: str, shape: tuple[int, ...], weights: str | None = None) -> View:
    """`inception` with images resized and scaled as clean-fid does (Parmar et al. 2022)."""
    return inception(dataset, shape, weights, "clean_fid")


def _download(url: str, file: Path, sha256: str) -> None:
    """Fetches a file, whole or not at all.

    Raises:
      app.UsageError: it cannot be had, or is not the published one, and what would help.
    """
    import requests

    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with requests.get(url, stream=True, timeout=10) as response, partial.open("wb") as target:
            response.raise_for_status()
            total = int(response.headers.get("Content-Length", 0))
            with tqdm(total=total, unit="B", unit_scale=True, desc=file.name) as bar:
                for chunk in response.iter_content(1 << 20):
                    target.write(chunk)
                    bar.update(len(chunk))
        if hashlib.sha256(partial.read_bytes()).hexdigest() != sha256:
            raise OSError(errno.EIO, "what came is not the published file")
        os.replace(partial, file)
    except OSError as error:  # requests' are such, too
        reason = error if isinstance(error, requests.HTTPError) else error.strerror
        raise app.UsageError(
            f"the Inception weights could not be downloaded ({reason or 'no connection'}): "
            f"fetch {url} and put it at {file}, or name it by inception_weights"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _read_verified(file: Path, sha256: str) -> bytes:
    """The content of a file of weights.

    Raises:
      app.UsageError: it is not there, or not the one that was published.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise app.UsageError(f"weights {file}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise app.UsageError(f"weights {file} are not the published ones: their sha256 differs")
    return content


VIEWS = {f.__name__: f for f in (classifier, inception, inception_pytorch_fid, inception_clean_fid)}

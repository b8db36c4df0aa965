"""FID's Inception-v3, and the three published ways to bring an image to it.

The network is TensorFlow's graph of 2015-12-05 as it was ported to PyTorch
(`pt_inception-2015-12-05-6726825d.pth`). It differs from Szegedy et al. 2016, and from torchvision:
average pools leave their padding out of the mean, the last block pools by maximum, and there are
1008 classes. Parameters are named as in that file, so that `convert` is mechanical.

Scores that differ only in how images were resized are not comparable. So each function of
RESIZINGS is one tool's resizing together with that tool's scaling of the input.

Accurate where the caller sets `jax.default_matmul_precision('highest')`: accelerators round the
factors of convolutions and products otherwise, and FID sees it. Resizing is exact regardless.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

SIZE = 299


class Outputs(NamedTuple):
    """What the network says of images.

    Attributes:
      features: [B, 2048], the last average pool, which FID, KID, precision and recall look at.
      logits: [B, 1008].
      logits_without_bias: [B, 1008], which the Inception score of Salimans et al. 2016 takes.
    """

    features: jax.Array
    logits: jax.Array
    logits_without_bias: jax.Array


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalisation by running statistics, ReLU."""

    features: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        conv = nn.Conv(
            self.features, kernel, self.stride, self.padding, use_bias=False, name="conv"
        )
        norm = nn.BatchNorm(use_running_average=True, epsilon=0.001, name="bn")
        return nn.relu(norm(conv(x)))


def _chain(x: jax.Array, name: str, *layers: tuple) -> jax.Array:
    """ConvNorms one after the other, each by its fields; several are `name` numbered from 1."""
    for i, fields in enumerate(layers, 1):
        x = ConvNorm(*fields, name=f"{name}_{i}" if len(layers) > 1 else name)(x)
    return x


def _average_pool(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _halve(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


class InceptionA(nn.Module):
    """Branches of 1x1, 5x5 and twice 3x3: [B, H, W, C] to [B, H, W, 224 + pool_features]."""

    pool_features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        branches = (
            _chain(x, "branch1x1", (64, 1)),
            _chain(x, "branch5x5", (48, 1), (64, 5)),
            _chain(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3)),
            _chain(_average_pool(x), "branch_pool", (self.pool_features, 1)),
        )
        return jnp.concatenate(branches, -1)


class InceptionB(nn.Module):
    """Halves the grid: [B, 35, 35, C] to [B, 17, 17, 480 + C]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        branches = (
            _chain(x, "branch3x3", (384, 3, 2, "VALID")),
            _chain(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3, 2, "VALID")),
            _halve(x),
        )
        return jnp.concatenate(branches, -1)


class InceptionC(nn.Module):
    """Branches with 7x7 as 1x7 and 7x1: [B, H, W, C] to [B, H, W, 768]."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, column = (self.width, (1, 7)), (self.width, (7, 1))
        branches = (
            _chain(x, "branch1x1", (192, 1)),
            _chain(x, "branch7x7", (self.width, 1), row, (192, (7, 1))),
            _chain(x, "branch7x7dbl", (self.width, 1), column, row, column, (192, (1, 7))),
            _chain(_average_pool(x), "branch_pool", (192, 1)),
        )
        return jnp.concatenate(branches, -1)


class InceptionD(nn.Module):
    """Halves the grid: [B, 17, 17, C] to [B, 8, 8, 512 + C]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, column, last = (192, (1, 7)), (192, (7, 1)), (192, 3, 2, "VALID")
        branches = (
            _chain(x, "branch3x3", (192, 1), (320, 3, 2, "VALID")),
            _chain(x, "branch7x7x3", (192, 1), row, column, last),
            _halve(x),
        )
        return jnp.concatenate(branches, -1)


class InceptionE(nn.Module):
    """Branches that fork into 1x3 and 3x1: [B, H, W, C] to [B, H, W, 2048]."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, column = (384, (1, 3)), (384, (3, 1))
        single = _chain(x, "branch3x3_1", (384, 1))
        double = _chain(x, "branch3x3dbl", (448, 1), (384, 3))
        branches = (
            _chain(x, "branch1x1", (320, 1)),
            _chain(single, "branch3x3_2a", row),
            _chain(single, "branch3x3_2b", column),
            _chain(double, "branch3x3dbl_3a", row),
            _chain(double, "branch3x3dbl_3b", column),
            _chain(self.pool(x), "branch_pool", (192, 1)),
        )
        return jnp.concatenate(branches, -1)


class Classifier(nn.Module):
    """The last layer, [B, 2048] to logits [B, 1008] with and without bias."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 1008))
        logits = x @ kernel
        return logits + self.param("bias", nn.initializers.zeros, (1008,)), logits


class InceptionV3(nn.Module):
    """Images as RESIZINGS make them, float32 [B, 299, 299, 3], to `Outputs`.

    Always with running statistics: there is no training mode.
    Source: Szegedy et al. 2016, 'Rethinking the Inception Architecture', as Heusel et al. 2017 use
    it for FID.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> Outputs:
        x = _chain(images, "Conv2d_1a_3x3", (32, 3, 2, "VALID"))
        x = _chain(x, "Conv2d_2a_3x3", (32, 3, 1, "VALID"))
        x = _chain(x, "Conv2d_2b_3x3", (64, 3))
        x = _halve(x)  # [B, 73, 73, 64]
        x = _chain(x, "Conv2d_3b_1x1", (80, 1))
        x = _chain(x, "Conv2d_4a_3x3", (192, 3, 1, "VALID"))
        x = _halve(x)  # [B, 35, 35, 192]
        for name, pool_features in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = InceptionA(pool_features, name=name)(x)
        x = InceptionB(name="Mixed_6a")(x)  # [B, 17, 17, 768]
        widths = (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192))
        for name, width in widths:
            x = InceptionC(width, name=name)(x)
        x = InceptionD(name="Mixed_7a")(x)  # [B, 8, 8, 1280]
        x = InceptionE(_average_pool, name="Mixed_7b")(x)
        x = InceptionE(_max_pool, name="Mixed_7c")(x)
        features = x.mean((1, 2))
        return Outputs(features, *Classifier(name="fc")(features))


# A tensor's axes in the other library, by their number: a product's weights, a convolution's.
TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
TO_FLAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


@functools.cache
def _template() -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Of each torch key: where its tensor goes in the Flax variables, and its shape in torch."""
    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    variables = jax.eval_shape(InceptionV3().init, jax.random.key(0), images)
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    template = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        _, *modules, name = path
        shape = tuple(leaf.shape[axis] for axis in TO_TORCH[leaf.ndim])
        template[".".join([*modules, names.get(name, name)])] = (path, shape)
    return template


def torch_shapes() -> dict[str, tuple[int, ...]]:
    """The keys that `convert` takes, with the shapes of their tensors in PyTorch."""
    return {key: shape for key, (_, shape) in _template().items()}


def convert(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The variables of `InceptionV3` out of a PyTorch state dict.

    Args:
      tensors: `torch_shapes()` says which. Counters of batches (`num_batches_tracked`) are ignored.
    Returns:
      {'params': ..., 'batch_stats': ...}, float32.
    Raises:
      ValueError: keys are missing or unexpected, or a shape is wrong, in one line.
    """
    tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    shapes = torch_shapes()
    wrong = {
        "missing": [key for key in shapes if key not in tensors],
        "unexpected": [key for key in tensors if key not in shapes],
        "of another shape": [
            f"{key} {tensors[key].shape} instead of {shape}"
            for key, shape in shapes.items()
            if key in tensors and tensors[key].shape != shape
        ],
    }
    problems = [
        f"{what}: {', '.join(keys[:3])}" + (f" and {len(keys) - 3} more" if keys[3:] else "")
        for what, keys in wrong.items()
        if keys
    ]
    if problems:
        raise ValueError("these are not the weights of FID's Inception; " + "; ".join(problems))
    flat = {}
    for key, (path, _) in _template().items():
        tensor = np.asarray(tensors[key], np.float32)
        flat[path] = jnp.asarray(np.transpose(tensor, TO_FLAX[tensor.ndim]))
    return traverse_util.unflatten_dict(flat)


def _resize(images: jax.Array, weights: Callable[[int], np.ndarray]) -> jax.Array:
    """uint8 [B, H, W, 1 or 3] to float32 [B, 299, 299, 1 or 3], rows and columns apart."""
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images are uint8 [B, H, W, 1 or 3], not {images.dtype} {list(images.shape)}"
        )
    rows, columns = (jnp.asarray(weights(n), jnp.float32) for n in images.shape[1:3])
    highest = jax.lax.Precision.HIGHEST
    x = images.astype(jnp.float32)
    x = jnp.einsum("bhwc,xw->bhxc", x, columns, precision=highest)
    return jnp.einsum("bhwc,yh->bywc", x, rows, precision=highest)


def _rgb(images: jax.Array) -> jax.Array:
    return jnp.broadcast_to(images, (*images.shape[:3], 3))


def _linear(positions: np.ndarray, size: int) -> np.ndarray:
    """[299, size]: each row weighs the two neighbours of a position, the last repeated outside."""
    low = np.floor(positions).astype(int)
    fraction = positions - low
    weights = np.zeros((SIZE, size))
    np.add.at(weights, (np.arange(SIZE), low), 1 - fraction)
    np.add.at(weights, (np.arange(SIZE), np.minimum(low + 1, size - 1)), fraction)
    return weights


def _legacy_linear(size: int) -> np.ndarray:
    # Positions in float32, as TensorFlow has them.
    return _linear(np.arange(SIZE, dtype=np.float32) * np.float32(size / SIZE), size)


def _half_pixel_linear(size: int) -> np.ndarray:
    # In float32, too, but product and difference are rounded together, as PyTorch's are.
    positions = (np.arange(SIZE) + 0.5) * float(np.float32(size / SIZE)) - 0.5
    return _linear(np.maximum(positions.astype(np.float32), 0), size)


def _antialiased_cubic(size: int) -> np.ndarray:
    """[299, size]: Keys's cubic with a = -1/2, widened where it shrinks, of sum 1 at the edges."""
    scale = size / SIZE
    centres = (np.arange(SIZE) + 0.5) * scale
    x = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


def tensorflow(images: jax.Array) -> jax.Array:
    """TensorFlow 1's bilinear resizing without half-pixel centres, then (x - 128) / 128.

    Heusel et al. 2017's own code, torch-fidelity and StyleGAN2-ADA have it so.

    Args:
      images: uint8 [B, H, W, 1 or 3]; grey is repeated.
    Returns:
      float32 [B, 299, 299, 3].
    Raises:
      ValueError: the images are of another type or shape, in one line.
    """
    return _rgb((_resize(images, _legacy_linear) - 128) / 128)


def pytorch_fid(images: jax.Array) -> jax.Array:
    """PyTorch's bilinear resizing, half-pixel centres and no antialiasing, of x / 255; then 2x - 1.

    Source: pytorch-fid (Seitzer 2020). Arguments, result and errors as of `tensorflow`.
    """
    return _rgb(2 * (_resize(images, _half_pixel_linear) / 255) - 1)


def clean_fid(images: jax.Array) -> jax.Array:
    """Pillow's antialiased bicubic resizing in float, clipped to [0, 255]; then (x - 128) / 128.

    Source: Parmar et al. 2022, and their clean-fid 0.1.35, which clips and does not round.
    Arguments, result and errors as of `tensorflow`.
    """
    return _rgb((jnp.clip(_resize(images, _antialiased_cubic), 0, 255) - 128) / 128)


RESIZINGS = {f.__name__: f for f in (tensorflow, pytorch_fid, clean_fid)}

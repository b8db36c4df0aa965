"""The blocks that networks are built of.

A convolution, its gradient for the input and its gradient for the kernel are three bilinear maps,
and the gradients of each are the other two. XLA does not know that: on a CPU its own derivatives of
a transposed convolution, or of a convolution's gradient as penalties need it, are many times slower
than the maps themselves. So each map is written once here, in the form that is fast, and
differentiates into the others, as often as one likes (in reverse mode). Where a population has a
kernel a member, a GPU is slow at the convolution but not at the matrix product that each map is.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

CACHE = 4e6  # bytes of a CPU's cache, for the outputs of a kernel gradient
PARTS = 16  # of a batch in it, at most: each is compiled by itself
FEW = 4  # channels, of which convolutions make little
SMALL = 8  # pixels a side, of which blocks at the border are many
COLUMNS = 32  # of a matrix product that keeps a CPU busy
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_platform: contextvars.ContextVar[str] = contextvars.ContextVar("platform")


@contextlib.contextmanager
def lowered_for(platform: str) -> Iterator[None]:
    """What is traced in it takes the form that is fast on 'cpu' or 'cuda', whatever is here."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def _on_cpu() -> bool:
    """Whether what is being traced is for a CPU."""
    return _platform.get(jax.default_backend()) == "cpu"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution, 'SAME' padding: [B, sH, sW, C], [k, k, C, D] to [B, H, W, D]."""
    if len(kernel) % stride:  # no layer has such
        return _native(inputs, kernel, stride)
    return _choose(_native, _product, kernel.shape[2] <= FEW, stride)(inputs, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def transposed_conv(outputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The gradient of `conv` for its inputs: [B, H, W, D], [k, k, C, D] to [B, sH, sW, C].

    As a layer of its own it is the transposed ('fractionally strided') convolution.
    """
    if len(kernel) % stride:
        return _native_transposed(outputs, kernel, stride)
    if stride == 1 and len(kernel) % 2 and _on_cpu():
        return conv(outputs, _turned(kernel), 1)
    few = stride > 1 and kernel.shape[2] <= FEW
    return _choose(_native_transposed, _product_transposed, few, stride)(outputs, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def kernel_gradient(inputs: jax.Array, outputs: jax.Array, size: int, stride: int) -> jax.Array:
    """The gradient of `conv` for its kernel.

    [B, sH, sW, C], [B, H, W, D] to [size, size, C, D].
    """
    if size % stride:
        return _native_gradient(inputs, outputs, size, stride)
    few = inputs.shape[3] <= FEW
    few &= stride > 1 or not _on_cpu()  # where patches of stride 1 take longer than they save
    return _choose(_native_gradient, _product_gradient, few, size, stride)(inputs, outputs)


def _choose(native: Callable, product: Callable, few: bool, *static: int) -> Callable:
    """The form of a bilinear map that is fast, of one that is a convolution and a matrix product.

    Args:
      native, product: of two arrays and `static`.
      few: whether the larger images have few channels.
      static: sizes.
    """
    alone = product if few else native
    if _on_cpu():
        return lambda a, b: alone(a, b, *static)
    return _for_gpu(alone, product, static)


@functools.cache
def _for_gpu(alone: Callable, product: Callable, static: tuple[int, ...]) -> Callable:
    """`alone`, or where `jax.vmap` gives both arrays an axis more `product`."""

    @jax.custom_batching.custom_vmap
    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return alone(a, b, *static)

    @choose.def_vmap
    def of_members(size: int, mapped: list[bool], a: Any, b: Any) -> tuple[jax.Array, bool]:
        del size
        form = product if all(mapped) else alone
        axes = [0 if each else None for each in mapped]
        return jax.vmap(lambda a, b: form(a, b, *static), axes)(a, b), True

    return choose


def _native(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    if stride > 1 or len(kernel) % 2 == 0 or not _on_cpu():
        return _plain(inputs, kernel, stride)
    if kernel.shape[3] <= FEW:
        return _product_transposed(inputs, _turned(kernel), 1)
    return _by_pixels(inputs, kernel, _padding(len(kernel), 1))


def _plain(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, (stride, stride), "SAME", dimension_numbers=DIMENSIONS
    )


def _by_pixels(inputs: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """A convolution of stride 1, of several neighbouring pixels of a row as one of more channels.

    A matrix product of few columns waits for its patches; of several pixels they are fewer.

    [B, H, W, C], [h, w, C, D] to [B, H', W', D], so many zeros before and after rows and columns.
    """
    height, width, channels, features = kernel.shape
    columns = inputs.shape[2] + sum(padding) - width + 1
    pixels = 1
    while 2 * pixels * features <= COLUMNS and 4 * pixels <= columns:
        pixels *= 2
    shifted = [
        jnp.pad(kernel, [(0, 0), (i, pixels - 1 - i), (0, 0), (0, 0)]) for i in range(pixels)
    ]
    more = -columns % pixels
    outputs = jax.lax.conv_general_dilated(
        inputs,
        jnp.stack(shifted, axis=3).reshape(height, width + pixels - 1, channels, -1),
        (1, pixels),
        [padding, (padding[0], padding[1] + more)],
        dimension_numbers=DIMENSIONS,
    )
    outputs = outputs.reshape(*outputs.shape[:2], columns + more, features)
    return outputs[:, :, :columns]


def _native_transposed(outputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    if stride > 1 and len(kernel) % stride == 0 and _on_cpu():
        small = max(outputs.shape[1:3]) <= SMALL and kernel.shape[2] >= COLUMNS
        return (_by_phases if small else _by_blocks)(outputs, kernel, stride)
    batch, height, width, _ = outputs.shape
    shape = (batch, stride * height, stride * width, kernel.shape[2])
    inputs = jax.ShapeDtypeStruct(shape, outputs.dtype)
    if not _on_cpu():  # XLA would reverse the kernel in its update, and see no transposed one here
        kernel = jax.lax.optimization_barrier(kernel)
    return jax.linear_transpose(lambda x: _plain(x, kernel, stride), inputs)(outputs)[0]


def _turned(kernel: jax.Array) -> jax.Array:
    """Turned by 180 degrees, its channels exchanged: of stride 1 and odd size the other map's."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _native_gradient(inputs: jax.Array, outputs: jax.Array, size: int, stride: int) -> jax.Array:
    shape = (size, size, inputs.shape[3], outputs.shape[3])
    kernel = jax.ShapeDtypeStruct(shape, inputs.dtype)

    def native(inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda k: _plain(inputs, k, stride), kernel)(outputs)[0]

    parts = 1
    if _on_cpu():  # where XLA would compute both once more from what they are made of, transposed
        inputs, outputs = jax.lax.optimization_barrier((inputs, outputs))
        parts = _parts(outputs)
    pairs = zip(jnp.split(inputs, parts), jnp.split(outputs, parts))
    return functools.reduce(jnp.add, (native(*pair) for pair in pairs))


def _padding(size: int, stride: int) -> tuple[int, int]:
    """'SAME' padding: pixels before and after those of an axis."""
    return (size - stride) // 2, (size - stride + 1) // 2


def _patches(inputs: jax.Array, size: int, stride: int) -> jax.Array:
    """What each output of a convolution sees: [B, sH, sW, C] to [B, H, W, size * size * C].

    The pixels of a patch are in the order of `_kernel_by_blocks`.
    """
    padded = jnp.pad(inputs, [(0, 0), *[_padding(size, stride)] * 2, (0, 0)])
    batch, height, width, channels = padded.shape
    height, width, taps = height // stride, width // stride, size // stride
    blocks = padded.reshape(batch, height, stride, width, stride, channels).swapaxes(2, 3)
    blocks = blocks.reshape(batch, height, width, -1)
    seen = [
        blocks[:, i : i + height - taps + 1, j : j + width - taps + 1]
        for i in range(taps)
        for j in range(taps)
    ]  # blocks instead of pixels: XLA joins up to four arrays without a choice at each number
    return jax.lax.optimization_barrier(jnp.concatenate(seen, axis=-1))


def _kernel_by_blocks(kernel: jax.Array, stride: int) -> jax.Array:
    """[k, k, C, D] to [taps, taps, stride, stride, C, D] with k = taps * stride."""
    taps = len(kernel) // stride
    return kernel.reshape(taps, stride, taps, stride, *kernel.shape[2:]).swapaxes(1, 2)


def _product(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    blocks = _kernel_by_blocks(kernel, stride)
    return _patches(inputs, len(kernel), stride) @ blocks.reshape(-1, kernel.shape[3])


def _product_gradient(inputs: jax.Array, outputs: jax.Array, size: int, stride: int) -> jax.Array:
    patches, taps = _patches(inputs, size, stride), size // stride
    blocks = jnp.tensordot(patches, outputs, ((0, 1, 2), (0, 1, 2)))
    blocks = jax.lax.optimization_barrier(blocks)  # XLA would rather transpose the patches
    blocks = blocks.reshape(taps, taps, stride, stride, inputs.shape[3], outputs.shape[3])
    return blocks.swapaxes(1, 2).reshape(size, size, inputs.shape[3], outputs.shape[3])


def _product_transposed(outputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """What each pixel of the outputs adds to a patch, and the sum of patches, in float32."""
    batch, height, width, features = outputs.shape
    blocks, taps = _kernel_by_blocks(kernel, stride), len(kernel) // stride
    matrix = blocks.reshape(-1, features).T
    patches = jnp.matmul(outputs, matrix, preferred_element_type=jnp.float32)
    patches = patches.reshape(batch, height, width, taps, taps, -1)
    shifted = (
        jnp.pad(patches[:, :, :, i, j], [(0, 0), (i, taps - 1 - i), (j, taps - 1 - j), (0, 0)])
        for i in range(taps)
        for j in range(taps)
    )
    found = functools.reduce(jnp.add, shifted).astype(outputs.dtype)
    return _from_blocks(found, len(kernel), stride)


def _parts(outputs: jax.Array) -> int:
    """Into how many a batch is split, so that a part's outputs stay in a CPU's cache.

    XLA sums a kernel's gradient over the images innermost, and fetches them at every pixel. A batch
    that lies over several devices stays whole: its parts would move from one to the other.
    """
    parts = 1
    if not jax.sharding.get_abstract_mesh().empty:
        return parts
    while parts < PARTS and outputs.nbytes > parts * CACHE and len(outputs) % (2 * parts) == 0:
        parts *= 2
    return parts


def _by_blocks(outputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`transposed_conv` to blocks of pixels, which an ordinary convolution has as its channels."""
    taps = len(kernel) // stride
    blocks = jnp.moveaxis(_kernel_by_blocks(kernel, stride), -1, 2)[::-1, ::-1]
    blocks = blocks.reshape(taps, taps, outputs.shape[3], -1)
    found = _by_pixels(outputs, blocks, (taps - 1, taps - 1))
    return _from_blocks(found, len(kernel), stride)


def _by_phases(outputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`transposed_conv` to every `stride`-th pixel by itself, each a convolution of fewer taps.

    That computes nothing outside the images, where the blocks at their border reach.
    """
    taps, (before, _) = len(kernel) // stride, _padding(len(kernel), stride)
    phases = [divmod(before + i, stride) for i in range(stride)]

    def one(row: tuple[int, int], column: tuple[int, int]) -> jax.Array:
        own = kernel[row[1] :: stride, column[1] :: stride]
        return jax.lax.conv_general_dilated(
            outputs,
            _turned(own),
            (1, 1),
            [(taps - 1 - after, after) for after, _ in (row, column)],
            dimension_numbers=DIMENSIONS,
        )

    batch, height, width, _ = outputs.shape
    rows = [jnp.stack([one(row, column) for column in phases], axis=3) for row in phases]
    return jnp.stack(rows, axis=2).reshape(batch, stride * height, stride * width, -1)


def _from_blocks(blocks: jax.Array, size: int, stride: int) -> jax.Array:
    """Images of blocks [B, H + taps - 1, W + taps - 1, stride * stride * C], without padding."""
    batch, height, width, _ = blocks.shape
    blocks = blocks.reshape(batch, height, width, stride, stride, -1)
    images = blocks.swapaxes(2, 3).reshape(batch, stride * height, stride * width, -1)
    before, after = _padding(size, stride)
    return images[:, before : stride * height - after, before : stride * width - after]


def _remember(bilinear: Callable) -> Callable:
    return lambda a, b, *static: (bilinear(a, b, *static), (a, b))


conv.defvjp(
    _remember(conv),
    lambda stride, saved, outputs: (
        transposed_conv(outputs, saved[1], stride),
        kernel_gradient(saved[0], outputs, len(saved[1]), stride),
    ),
)
transposed_conv.defvjp(
    _remember(transposed_conv),
    lambda stride, saved, inputs: (
        conv(inputs, saved[1], stride),
        kernel_gradient(inputs, saved[0], len(saved[1]), stride),
    ),
)
kernel_gradient.defvjp(
    _remember(kernel_gradient),
    lambda size, stride, saved, kernel: (
        transposed_conv(saved[1], kernel, stride),
        conv(saved[0], kernel, stride),
    ),
)


def grouped_conv(inputs: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    """`conv` of each of `groups` slices of the channels by itself.

    [B, sH, sW, C], [k, k, C / groups, D] to [B, H, W, D].
    """
    if groups == 1:
        return conv(inputs, kernel, stride)
    if _on_cpu():  # where XLA's own grouped gradients are 40 times slower
        slices = (jnp.split(x, groups, axis=-1) for x in (inputs, kernel))
        return jnp.concatenate([conv(x, k, stride) for x, k in zip(*slices)], axis=-1)
    return jax.lax.conv_general_dilated(
        inputs,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


def downsample(images: jax.Array) -> jax.Array:
    """Half the resolution, low-pass filtered by [1, 3, 3, 1] / 8 along both axes; zeros outside.

    [B, 2H, 2W, C] to [B, H, W, C].
    Source: Karras et al. 2020 (StyleGAN2), whose filter it is.
    """
    for axis in (1, 2):
        first, second = _pairs(images, axis)
        near, far = first + second, _shift(second, axis, 1) + _shift(first, axis, -1)
        images = (3 * near + far) / 8
    return images


def upsample(images: jax.Array) -> jax.Array:
    """Twice the resolution, zeros between filtered by [1, 3, 3, 1] / 4 along both axes.

    [B, H, W, C] to [B, 2H, 2W, C].
    Source: as `downsample`, of which it is four times the transpose.
    """
    for axis in (1, 2):
        first = (3 * images + _shift(images, axis, 1)) / 4
        second = (3 * images + _shift(images, axis, -1)) / 4
        shape = list(images.shape)
        shape[axis] *= 2
        images = jnp.stack([first, second], axis=axis + 1).reshape(shape)
    return images


def _pairs(images: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Every other row or column, from the first and from the second on."""
    shape = images.shape
    paired = images.reshape(*shape[:axis], shape[axis] // 2, 2, *shape[axis + 1 :])
    first, second = jnp.split(paired, 2, axis=axis + 1)
    return first.squeeze(axis + 1), second.squeeze(axis + 1)


def _shift(images: jax.Array, axis: int, by: int) -> jax.Array:
    """Moved by one to the right (1) or left (-1) along an axis, a zero coming in."""
    widths = [(0, 0, 0)] * images.ndim
    widths[axis] = (1, 0, 0) if by > 0 else (0, 1, 0)
    start = 0 if by > 0 else 1
    padded = jax.lax.pad(images, images.dtype.type(0), widths)  # piecewise.py sees that it is 0
    return jax.lax.slice_in_dim(padded, start, start + images.shape[axis], axis=axis)


def average_pool(images: jax.Array) -> jax.Array:
    """The means of 2x2 pixels: [B, 2H, 2W, C] to [B, H, W, C]."""
    batch, height, width, channels = images.shape
    return images.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def repeat_pixels(images: jax.Array) -> jax.Array:
    """Every pixel as 2x2 of them: [B, H, W, C] to [B, 2H, 2W, C]."""
    return images.repeat(2, axis=1).repeat(2, axis=2)


def minibatch_stddev(images: jax.Array, group_size: int) -> jax.Array:
    """A channel more, the same number in all images of a group: how much they differ.

    The standard deviation over the group, averaged over pixels and channels. Neighbours are apart:
    image i is in group i modulo the number of groups.

    Args:
      images: [B, H, W, C].
      group_size: images of a group; smaller batches are one group.
    Raises:
      ValueError: it does not divide the batch.
    Source: Karras et al. 2018, section 3; the groups are StyleGAN's.
    """
    batch, height, width, channels = images.shape
    group_size = min(group_size, batch)
    if batch % group_size:
        raise ValueError(f"minibatch_stddev={group_size} does not divide a batch of {batch}")
    groups = images.reshape(group_size, -1, height, width, channels)
    deviation = jnp.sqrt(groups.var(axis=0) + 1e-8).mean((1, 2, 3))
    channel = jnp.tile(deviation, group_size)[:, None, None, None]
    return jnp.concatenate([images, jnp.broadcast_to(channel, (*images.shape[:3], 1))], axis=-1)


class Conv(nn.Module):
    """A `conv`, or `transposed_conv`, with its parameters: 4x4 of stride 2, if not else said.

    [B, sH, sW, C] becomes [B, H, W, features], or transposed [B, H, W, C] [B, sH, sW, features].
    Channels in `groups` are convolved apart; of a kernel of size 1 it is a matrix product.
    """

    features: int
    size: int = 4
    stride: int = 2
    groups: int = 1
    transposed: bool = False
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        channels = inputs.shape[-1] // self.groups
        shape = (self.features, channels) if self.transposed else (channels, self.features)
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, *shape))
        inputs, kernel = inputs.astype(self.dtype), kernel.astype(self.dtype)
        if self.transposed:
            outputs = transposed_conv(inputs, kernel, self.stride)
        elif self.size == self.stride == self.groups == 1:
            pixels = inputs.reshape(-1, channels)  # in two axes: XLA:CPU is slow at more
            outputs = (pixels @ kernel[0, 0]).reshape(*inputs.shape[:3], self.features)
        else:
            outputs = grouped_conv(inputs, kernel, self.stride, self.groups)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            outputs += bias.astype(self.dtype)
        return outputs

"""The blocks that networks are built of.

A convolution, its gradient for the input and its gradient for the kernel are three bilinear maps,
and the gradients of each are the other two. XLA does not know that: on a CPU its own derivatives of
a transposed convolution, or of a convolution's gradient as penalties need it, are many times slower
than the maps themselves. So each map is written once here, in the form that is fast, and
differentiates into the others, as often as one likes (in reverse mode).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

STRIDE = 2


def _native(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, (STRIDE, STRIDE), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def conv(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 2, 'SAME' padding: [B, 2H, 2W, C], [k, k, C, D] to [B, H, W, D]."""
    return _native(inputs, kernel)


@jax.custom_vjp
def transposed_conv(outputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of `conv` for its inputs: [B, H, W, D], [k, k, C, D] to [B, 2H, 2W, C].

    As a layer of its own it is the transposed ('fractionally strided') convolution.
    """
    batch, height, width, _ = outputs.shape
    shape = (batch, STRIDE * height, STRIDE * width, kernel.shape[2])
    inputs = jax.ShapeDtypeStruct(shape, outputs.dtype)
    return jax.linear_transpose(lambda x: _native(x, kernel), inputs)(outputs)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def kernel_gradient(inputs: jax.Array, outputs: jax.Array, size: int) -> jax.Array:
    """The gradient of `conv` for its kernel: [B, 2H, 2W, C], [B, H, W, D] to [size, size, C, D]."""
    shape = (size, size, inputs.shape[3], outputs.shape[3])
    kernel = jax.ShapeDtypeStruct(shape, inputs.dtype)
    return jax.linear_transpose(lambda k: _native(inputs, k), kernel)(outputs)[0]


def _remember(bilinear: Callable) -> Callable:
    return lambda a, b, *static: (bilinear(a, b, *static), (a, b))


conv.defvjp(
    _remember(conv),
    lambda saved, outputs: (
        transposed_conv(outputs, saved[1]),
        kernel_gradient(saved[0], outputs, len(saved[1])),
    ),
)
transposed_conv.defvjp(
    _remember(transposed_conv),
    lambda saved, inputs: (
        conv(inputs, saved[1]),
        kernel_gradient(inputs, saved[0], len(saved[1])),
    ),
)
kernel_gradient.defvjp(
    _remember(kernel_gradient),
    lambda size, saved, kernel: (transposed_conv(saved[1], kernel), conv(saved[0], kernel)),
)


class Conv(nn.Module):
    """A 4x4 `conv`, or `transposed_conv`, with its parameters.

    [B, 2H, 2W, C] becomes [B, H, W, features], or transposed [B, H, W, C] [B, 2H, 2W, features].
    """

    features: int
    transposed: bool = False
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        channels = inputs.shape[-1]
        shape = (self.features, channels) if self.transposed else (channels, self.features)
        kernel = self.param("kernel", self.kernel_init, (4, 4, *shape))
        convolve = transposed_conv if self.transposed else conv
        outputs = convolve(inputs.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            outputs += bias.astype(self.dtype)
        return outputs

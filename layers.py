"""The blocks that networks are built of: convolutions written so that XLA runs them fast."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def transposed_conv(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 4x4 transposed convolution of stride 2, as one matrix product and an overlap-add.

    Every input pixel spreads a 4x4 patch over the outputs; the patches, two pixels apart, are
    added up. XLA's own lowering dilates the input instead, and the gradient for its kernel is
    many times slower than the forward pass on a CPU; here every derivative is a matrix product.

    Args:
      inputs: [B, H, W, C].
      kernel: [4, 4, C, D].
    Returns:
      [B, 2H, 2W, D], equal to `lax.conv_transpose(inputs, kernel, (2, 2), 'SAME')`.
    """
    patches = jnp.einsum("bhwc,ijcd->ijbhwd", inputs, kernel)  # [4, 4, B, H, W, D]
    rows = _overlap_add(patches, axis=2)  # [4, B, 2H, W, D]
    return _overlap_add(rows, axis=2)  # [B, 2H, 2W, D]


def _overlap_add(patches: jax.Array, axis: int) -> jax.Array:
    """Adds up patches of 4, two apart, along `axis` of a tap: [4, ..., n, ...] to [..., 2n, ...].

    Taps 1 and 2 of patch i fall on outputs 2i + 1 and 2i, tap 0 on 2i + 2, tap 3 on 2i - 1: the
    order that `lax.conv_transpose` has. What falls outside is dropped ('SAME' padding).
    """
    size = patches.shape[axis + 1]
    after = jax.lax.slice_in_dim(patches[0], 0, size - 1, axis=axis)
    before = jax.lax.slice_in_dim(patches[3], 1, size, axis=axis)
    zero = jnp.zeros_like(jax.lax.slice_in_dim(patches[0], 0, 1, axis=axis))
    even = patches[2] + jnp.concatenate([zero, after], axis)
    odd = patches[1] + jnp.concatenate([before, zero], axis)
    shape = even.shape
    return jnp.stack([even, odd], axis + 1).reshape(*shape[:axis], 2 * size, *shape[axis + 1 :])


class TransposedConv(nn.Module):
    """`transposed_conv` with its parameters: [B, H, W, C] to [B, 2H, 2W, features]."""

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (4, 4, inputs.shape[-1], self.features))
        outputs = transposed_conv(inputs.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return outputs
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return outputs + bias.astype(self.dtype)

"""Generators and discriminators, as Flax modules.

A generator is built with the `shape` of an example and maps latents [B, latent_dim] to [B, *shape];
images live in [-1, 1]. A discriminator maps examples [B, *shape] to logits [B]. Both take `train`:
batch statistics of this batch, or the running ones. To try a network of your own, write one class
here, name it in GENERATORS or DISCRIMINATORS, and train with `--config.generator.name=yours`; its
fields other than `shape` and `dtype`, with defaults, are what `--config.generator.FIELD` sets.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers import Conv

SLOPE = 0.2  # of every leaky ReLU, as in Radford et al. 2016


class MLPGenerator(nn.Module):
    """`depth` hidden layers of `width` with leaky ReLU, then one number a pixel.

    The output is linear: it is in no way kept within [-1, 1], but pictures and scores clip it.
    Source: the generator of Goodfellow et al. 2014's MNIST experiment, leaky instead of plain ReLU.
    """

    shape: tuple[int, ...]
    width: int = 128
    depth: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool) -> jax.Array:
        hidden = latents.astype(self.dtype)
        for _ in range(self.depth):
            hidden = nn.leaky_relu(nn.Dense(self.width, dtype=self.dtype)(hidden), SLOPE)
        outputs = nn.Dense(math.prod(self.shape), dtype=self.dtype)(hidden)
        return outputs.reshape(-1, *self.shape).astype(jnp.float32)


class MLPDiscriminator(nn.Module):
    """Flatten, `depth` hidden layers of `width` with leaky ReLU, one logit."""

    width: int = 128
    depth: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, examples: jax.Array, train: bool) -> jax.Array:
        hidden = examples.reshape(len(examples), -1).astype(self.dtype)
        for _ in range(self.depth):
            hidden = nn.leaky_relu(nn.Dense(self.width, dtype=self.dtype)(hidden), SLOPE)
        return nn.Dense(1, dtype=self.dtype)(hidden)[:, 0].astype(jnp.float32)


def doublings(size: int) -> int:
    """How often a basis of 4 to 7 pixels doubles to reach `size`: 28 is 7 doubled twice.

    Raises:
      ValueError: no such basis does.
    """
    times = size.bit_length() - 3  # 4 to 7 have three bits
    if times < 1 or size % 2**times:
        raise ValueError(
            f"dcgan cannot make {size}x{size} images: it doubles a basis of 4 to 7 pixels "
            "(8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, ...)"
        )
    return times


class DCGANGenerator(nn.Module):
    """A projection to a small image of many channels, then transposed convolutions of stride 2.

    Each doubling halves the channels, down to `width` before the last; batch normalisation and
    ReLU between, tanh at the end, weights from N(0, 0.02). Deviation: the basis is 4 to 7 pixels,
    as the resolution asks, where the paper has 4.
    Source: Radford et al. 2016, figure 1 and section 3.
    """

    shape: tuple[int, int, int]
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool) -> jax.Array:
        if len(self.shape) != 3:
            raise ValueError("dcgan makes images, and this data set has points")
        settings = {"kernel_init": nn.initializers.normal(0.02), "dtype": self.dtype}
        times = doublings(self.shape[0])
        basis, channels = self.shape[0] >> times, self.width << (times - 1)

        def activate(inputs: jax.Array) -> jax.Array:
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)
            return nn.relu(norm(inputs))

        hidden = nn.Dense(basis * basis * channels, use_bias=False, **settings)(latents)
        hidden = activate(hidden.reshape(-1, basis, basis, channels))
        for _ in range(times - 1):
            channels //= 2
            hidden = activate(Conv(channels, transposed=True, use_bias=False, **settings)(hidden))
        outputs = Conv(self.shape[2], transposed=True, **settings)(hidden)
        return jnp.tanh(outputs.astype(jnp.float32))


class DCGANDiscriminator(nn.Module):
    """Convolutions of stride 2 that double the channels from `width` on, then one logit.

    Leaky ReLU throughout, `norm` after every convolution but the first ('batch', or 'none' as
    gradient penalties need it), weights from N(0, 0.02).
    Source: Radford et al. 2016, section 3.
    """

    width: int = 64
    norm: str = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        if self.norm not in ("batch", "none"):
            raise ValueError(f"discriminator.norm={self.norm!r} does not exist: batch or none")
        settings = {"kernel_init": nn.initializers.normal(0.02), "dtype": self.dtype}
        hidden = images
        for i in range(doublings(images.shape[1])):
            use_norm = self.norm == "batch" and i > 0
            hidden = Conv(self.width << i, use_bias=not use_norm, **settings)(hidden)
            if use_norm:
                norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)
                hidden = norm(hidden)
            hidden = nn.leaky_relu(hidden, SLOPE)
        logits = nn.Dense(1, **settings)(hidden.reshape(len(hidden), -1))
        return logits[:, 0].astype(jnp.float32)


def network_fields(network: type[nn.Module]) -> dict[str, Any]:
    """The fields of a network that a config may set, with their defaults."""
    fixed = {"shape", "dtype", "parent", "name"}
    return {f.name: f.default for f in dataclasses.fields(network) if f.name not in fixed}


GENERATORS: dict[str, type[nn.Module]] = {"mlp": MLPGenerator, "dcgan": DCGANGenerator}
DISCRIMINATORS: dict[str, type[nn.Module]] = {"mlp": MLPDiscriminator, "dcgan": DCGANDiscriminator}

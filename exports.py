"""A generator as one file that jax alone reads: its program and its weights, by `jax.export`.

    generator = jax.export.deserialize(bytearray(open(FILE, "rb").read()))
    images = generator.call(latents)  # or (latents, labels)

Any batch size, on a CPU or an NVIDIA GPU. JAX promises to read such a file with a jaxlib that is up
to 6 months newer than the one that wrote it, or 3 weeks older; later ones may, and from 0.11.1 on
say so where they do not. To keep a generator for longer keep its run, or export it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

import gan as gans
import layers

PLATFORMS = ("cpu", "cuda")


def export(gan: gans.Gan, network: gans.Network) -> jax.export.Exported:
    """Latents float32 [b, latent_dim], and of a GAN with labels int32 [b], to examples.

    Images are uint8 [b, H, W, C], points float32 [b, 2]: the samples of pictures and scores, at
    matmul precision 'highest'. Each platform has the form of the convolutions that is fast on it.

    Args:
      gan: static.
      network: `state.average`, after `standing_statistics` where it has them.
    Returns:
      What `serialize()` makes the bytes of a file of.
    """
    (batch,) = jax.export.symbolic_shape("b")
    inputs = [jax.ShapeDtypeStruct((batch, gan.latent_dim), jnp.float32)]
    if gan.num_classes:
        inputs.append(jax.ShapeDtypeStruct((batch,), jnp.int32))
    forms = {platform: _generate_on(gan, platform) for platform in PLATFORMS}

    def generate(*given: jax.Array) -> jax.Array:
        return jax.lax.platform_dependent(network, *given, **forms)

    with jax.default_matmul_precision("highest"):
        return jax.export.export(jax.jit(generate), platforms=PLATFORMS)(*inputs)


def _generate_on(gan: gans.Gan, platform: str) -> Callable[..., Any]:
    """The generator as it is fast on a platform; its weights are an input, common to all."""

    def generate(network: gans.Network, *given: jax.Array) -> jax.Array:
        with layers.lowered_for(platform):
            examples = gans.sample(gan, network, *given)
        return gans.to_uint8(examples) if examples.ndim == 4 else examples

    return generate

"""Generators and discriminators, as Flax modules.

A generator is built with the `shape` of an example and maps latents [B, latent_dim] to [B, *shape];
images live in [-1, 1]. A discriminator maps examples [B, *shape] to logits [B]. Both take `labels`,
int32 [B], or None where `num_classes` is 0; and `train`: batch statistics of this batch, or the
running ones. To try a network of your own, write one class here, name it in GENERATORS or
DISCRIMINATORS, and train with `--config.generator.name=yours`; its fields other than `shape`,
`num_classes` and `dtype`, with defaults, are what `--config.generator.FIELD` sets; one of None is
annotated `T | None`. It has a field `dtype`, and computes in it; one without `num_classes` takes no
labels; batch normalisation is `batch_norm`, whose MOMENTUM `standing_statistics` reckons with.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers import (
    Conv,
    average_pool,
    downsample,
    minibatch_stddev,
    repeat_pixels,
    upsample,
)

SLOPE = 0.2  # of every leaky ReLU, as in Radford et al. 2016
MOST_GROUPS = 2_000  # of channels: each is a convolution of its own on a CPU
MOMENTUM = 0.9  # of running batch statistics: what one batch keeps of them

Initializer = nn.initializers.Initializer


def with_labels(inputs: jax.Array, labels: jax.Array | None, num_classes: int) -> jax.Array:
    """Inputs [B, ..., C] with labels as 0 and 1 in `num_classes` more channels; None: as they are.

    Source: Mirza and Osindero 2014, section 3.
    """
    if labels is None:
        return inputs
    channels = jax.nn.one_hot(labels, num_classes, dtype=inputs.dtype)
    channels = channels.reshape(labels.shape[0], *(1,) * (inputs.ndim - 2), num_classes)
    shape = (*inputs.shape[:-1], num_classes)
    return jnp.concatenate([inputs, jnp.broadcast_to(channels, shape)], axis=-1)


def bounded(layer: nn.Module, norm: str, train: bool) -> Callable[[jax.Array], jax.Array]:
    """The layer; with norm 'spectral' its kernel is divided by its largest singular value.

    Power iteration, once a pass in training; its vectors are in the variables `spectral`.
    Source: Miyato et al. 2018, algorithm 1.
    """
    if norm != "spectral":
        return layer  # type: ignore[return-value]
    normalised = nn.SpectralNorm(layer, collection_name="spectral")
    return functools.partial(normalised, update_stats=train)


def discriminate(
    network: Any, features: jax.Array, labels: jax.Array | None, train: bool, **settings: Any
) -> jax.Array:
    """The last layers of a discriminator: features [B, F] to logits [B], by its `condition`.

    'concat': the labels were part of the inputs. 'projection': plus the features' product with an
    embedding of the label (Miyato and Koyama 2018, equation 3). 'acgan': the features also give
    class logits [B, num_classes], sown as `class_logits` in `auxiliary` (Odena et al. 2017).
    """
    norm = getattr(network, "norm", "none")
    features = features.astype(network.dtype)
    dense = bounded(nn.Dense(1, dtype=network.dtype, **settings), norm, train)
    logits = dense(features)[:, 0].astype(jnp.float32)
    if labels is None:
        return logits
    if network.condition == "projection":
        embed = nn.Embed(network.num_classes, features.shape[-1], dtype=network.dtype)
        embedded = bounded(embed, norm, train)(labels)
        logits += jnp.sum(embedded * features, axis=-1).astype(jnp.float32)
    elif network.condition == "acgan":
        dense = bounded(nn.Dense(network.num_classes, dtype=network.dtype, **settings), norm, train)
        network.sow(
            "auxiliary",
            "class_logits",
            dense(features).astype(jnp.float32),
            reduce_fn=lambda _, new: new,
            init_fn=lambda: None,
        )
    return logits


def choose(network: nn.Module, **choices: tuple[str, ...]) -> None:
    """Checks fields that are names.

    Raises:
      ValueError: one is not among its choices.
    """
    player = "generator" if "shape" in network.__dataclass_fields__ else "discriminator"
    for field, names in choices.items():
        value = getattr(network, field)
        if value not in names:
            raise ValueError(f"{player}.{field}={value!r} does not exist: {' or '.join(names)}")


CONDITIONS = ("concat", "projection", "acgan")


def in_block(network: Any, function: Callable[[Any, jax.Array], jax.Array]) -> Callable:
    """A block, as a function of the network and images; with `remat` its gradient computes it anew.

    Less is kept until then, and a step takes longer (docs/scale.md). Source: Chen et al. 2016.
    """
    return nn.remat(function) if network.remat else function


class MLPGenerator(nn.Module):
    """`depth` hidden layers of `width` with leaky ReLU, then one number a pixel.

    The output is linear: it is in no way kept within [-1, 1], but pictures and scores clip it.
    Source: the generator of Goodfellow et al. 2014's MNIST experiment; leaky instead of plain ReLU,
    a linear instead of a sigmoid output, narrower.
    """

    shape: tuple[int, ...]
    width: int = 128
    depth: int = 2
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        hidden = with_labels(latents, labels, self.num_classes).astype(self.dtype)
        for _ in range(self.depth):
            hidden = nn.leaky_relu(nn.Dense(self.width, dtype=self.dtype)(hidden), SLOPE)
        outputs = nn.Dense(math.prod(self.shape), dtype=self.dtype)(hidden)
        return outputs.reshape(-1, *self.shape).astype(jnp.float32)


class MLPDiscriminator(nn.Module):
    """Flatten, `depth` hidden layers of `width` with leaky ReLU, one logit.

    `norm` is 'none' or 'spectral'; `condition` as in `discriminate`.
    """

    width: int = 128
    depth: int = 2
    norm: str = "none"
    condition: str = "concat"
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, examples: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        choose(self, norm=("none", "spectral"), condition=CONDITIONS)
        hidden = examples.reshape(len(examples), -1)
        if self.condition == "concat":
            hidden = with_labels(hidden, labels, self.num_classes)
        hidden = hidden.astype(self.dtype)
        for _ in range(self.depth):
            dense = bounded(nn.Dense(self.width, dtype=self.dtype), self.norm, train)
            hidden = nn.leaky_relu(dense(hidden), SLOPE)
        return discriminate(self, hidden, labels, train)


def doublings(size: int) -> int:
    """How often a basis of 4 to 7 pixels doubles to reach `size`: 28 is 7 doubled twice.

    Raises:
      ValueError: no such basis does.
    """
    times = size.bit_length() - 3  # 4 to 7 have three bits
    if times < 1 or size % 2**times:
        raise ValueError(
            f"convolutions cannot make {size}x{size} images: they double a basis of 4 to 7 pixels "
            "(8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, ...)"
        )
    return times


def image_basis(shape: tuple[int, ...]) -> tuple[int, int]:
    """The pixels of the basis of an image of this shape, and how often it doubles.

    Raises:
      ValueError: it is no image, or no basis makes it.
    """
    if len(shape) != 3:
        raise ValueError("convolutions make images, and this data set has points")
    times = doublings(shape[0])
    return shape[0] >> times, times


def batch_norm(network: Any, inputs: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
    """Batch normalisation; where labels are given, with a scale and an offset a class.

    Source: Ioffe and Szegedy 2015; Dumoulin et al. 2017.
    """
    conditional = labels is not None
    normalised = nn.BatchNorm(
        use_running_average=not train,
        momentum=MOMENTUM,
        use_scale=not conditional,
        use_bias=not conditional,
        dtype=network.dtype,
    )(inputs)
    if not conditional:
        return normalised
    embed = functools.partial(nn.Embed, network.num_classes, inputs.shape[-1], dtype=network.dtype)
    scale = embed(embedding_init=nn.initializers.ones)(labels)
    offset = embed(embedding_init=nn.initializers.zeros)(labels)
    return scale[:, None, None] * normalised + offset[:, None, None]


class DCGANGenerator(nn.Module):
    """A projection to a small image of many channels, then transposed convolutions of stride 2.

    Each doubling halves the channels, down to `width` before the last; batch normalisation and
    ReLU between, tanh at the end, weights from N(0, 0.02). `condition` is 'concat': labels beside
    the latents, or 'norm': in batch normalisation. Deviation: the basis is 4 to 7 pixels, as the
    resolution asks, where the paper has 4.
    Source: Radford et al. 2016, figure 1 and section 3.
    """

    shape: tuple[int, int, int]
    width: int = 64
    condition: str = "concat"
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        choose(self, condition=("concat", "norm"))
        settings = {"kernel_init": nn.initializers.normal(0.02), "dtype": self.dtype}
        basis, times = image_basis(self.shape)
        channels = self.width << (times - 1)
        in_norm = labels if self.condition == "norm" else None
        if self.condition == "concat":
            latents = with_labels(latents, labels, self.num_classes)

        def activate(inputs: jax.Array) -> jax.Array:
            return nn.relu(batch_norm(self, inputs, in_norm, train))

        hidden = nn.Dense(basis * basis * channels, use_bias=False, **settings)(latents)
        hidden = activate(hidden.reshape(-1, basis, basis, channels))
        for _ in range(times - 1):
            channels //= 2
            hidden = activate(Conv(channels, transposed=True, use_bias=False, **settings)(hidden))
        outputs = Conv(self.shape[2], transposed=True, **settings)(hidden)
        return jnp.tanh(outputs.astype(jnp.float32))


class DCGANDiscriminator(nn.Module):
    """Convolutions of stride 2 that double the channels from `width` on, then one logit.

    Leaky ReLU throughout, weights from N(0, 0.02). `norm` is 'batch' after every convolution but
    the first, 'layer' there, 'spectral' of every layer, or 'none'; gradient penalties need one
    that is not 'batch'. `condition` as in `discriminate`; `minibatch_stddev` images are a group of
    that layer (0: it is not there).
    Source: Radford et al. 2016, section 3.
    """

    width: int = 64
    norm: str = "batch"
    condition: str = "concat"
    minibatch_stddev: int = 0
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        choose(self, norm=("batch", "none", "layer", "spectral"), condition=CONDITIONS)
        settings: dict[str, Any] = {"kernel_init": nn.initializers.normal(0.02)}
        hidden = images
        if self.condition == "concat":
            hidden = with_labels(images, labels, self.num_classes)
        for i in range(doublings(images.shape[1])):
            shifts = (
                self.norm in ("batch", "layer") and i > 0
            )  # normalised: it has a bias of its own
            conv = Conv(self.width << i, use_bias=not shifts, dtype=self.dtype, **settings)
            hidden = bounded(conv, self.norm, train)(hidden)
            if shifts and self.norm == "batch":
                hidden = batch_norm(self, hidden, None, train)
            elif shifts:
                hidden = layer_norm(hidden, self.dtype)
            hidden = nn.leaky_relu(hidden, SLOPE)
        if self.minibatch_stddev:
            hidden = minibatch_stddev(hidden, self.minibatch_stddev)
        return discriminate(self, hidden.reshape(len(hidden), -1), labels, train, **settings)


def layer_norm(images: jax.Array, dtype: Any) -> jax.Array:
    """Each image [H, W, C] of mean 0 and variance 1, then a scale and an offset a channel.

    Source: Ba et al. 2016; as in Gulrajani et al. 2017's discriminators.
    """
    return nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=3, dtype=dtype)(images)


class ResNetGenerator(nn.Module):
    """Residual blocks that double the resolution, of `width` channels, tanh at the end.

    Batch normalisation and ReLU before each convolution, pixels repeated, 1x1 convolutions on the
    shortcuts. `condition` is 'norm': labels in batch normalisation, or 'concat': beside latents.
    `remat` as in `in_block`.
    Deviation: all blocks have the same width at every resolution (the papers' at 64 pixels narrow).
    Source: Gulrajani et al. 2017, appendix F; Miyato et al. 2018, table 4.
    """

    shape: tuple[int, int, int]
    width: int = 256
    condition: str = "norm"
    remat: bool = False
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        choose(self, condition=("norm", "concat"))
        basis, times = image_basis(self.shape)
        in_norm = labels if self.condition == "norm" else None
        if self.condition == "concat":
            latents = with_labels(latents, labels, self.num_classes)
        conv = functools.partial(Conv, stride=1, dtype=self.dtype)

        def activate(inputs: jax.Array) -> jax.Array:
            return nn.relu(batch_norm(self, inputs, in_norm, train))

        init = nn.initializers.glorot_uniform()
        hidden = nn.Dense(basis * basis * self.width, kernel_init=init, dtype=self.dtype)(latents)
        hidden = hidden.reshape(-1, basis, basis, self.width)

        def double(_: ResNetGenerator, inputs: jax.Array) -> jax.Array:
            shortcut = conv(self.width, size=1, kernel_init=init)(inputs)
            hidden = repeat_pixels(activate(inputs))
            hidden = conv(self.width, size=3, kernel_init=RESIDUAL)(hidden)
            hidden = conv(self.width, size=3, kernel_init=RESIDUAL)(activate(hidden))
            return hidden + repeat_pixels(shortcut)

        for _ in range(times):
            hidden = in_block(self, double)(self, hidden)
        outputs = conv(self.shape[2], size=3, kernel_init=init)(activate(hidden))
        return jnp.tanh(outputs.astype(jnp.float32))


class ResNetDiscriminator(nn.Module):
    """Residual blocks of `width` channels: some halve, down to 8 pixels or less, two do not.

    ReLU before each convolution but the first, average pooling; at the end the `pool` of all
    pixels, 'sum' or 'mean'. `norm` is 'spectral' of every layer, 'layer' before each ReLU within a
    block, or 'none'. `condition` as in `discriminate`, `minibatch_stddev` as in dcgan, and `remat`
    as in `in_block`.
    Source: Gulrajani et al. 2017, appendix F (pool 'mean'); Miyato et al. 2018, table 4 ('sum').
    """

    width: int = 128
    norm: str = "spectral"
    pool: str = "sum"
    condition: str = "projection"
    minibatch_stddev: int = 0
    remat: bool = False
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        choose(
            self,
            norm=("spectral", "layer", "none"),
            pool=("sum", "mean"),
            condition=CONDITIONS,
        )
        doublings(images.shape[1])
        init = nn.initializers.glorot_uniform()

        def conv(size: int, kernel_init: Initializer, inputs: jax.Array) -> jax.Array:
            settings = {"size": size, "kernel_init": kernel_init, "dtype": self.dtype}
            return bounded(Conv(self.width, stride=1, **settings), self.norm, train)(inputs)

        def activate(inputs: jax.Array) -> jax.Array:
            return nn.relu(layer_norm(inputs, self.dtype) if self.norm == "layer" else inputs)

        hidden = images
        if self.condition == "concat":
            hidden = with_labels(images, labels, self.num_classes)
        halvings = max(1, math.ceil(math.log2(images.shape[1] / 8)))

        def look(i: int, _: ResNetDiscriminator, inputs: jax.Array) -> jax.Array:
            halves = i < halvings
            shortcut = inputs
            if i == 0:  # pools before its 1x1 convolution, and has nothing to activate yet
                shortcut = conv(1, init, average_pool(inputs))
            elif halves:
                shortcut = average_pool(conv(1, init, inputs))
            residual = conv(3, RESIDUAL, inputs if i == 0 else activate(inputs))
            residual = conv(3, RESIDUAL, activate(residual))
            return shortcut + (average_pool(residual) if halves else residual)

        for i in range(halvings + 2):
            hidden = in_block(self, functools.partial(look, i))(self, hidden)
        hidden = nn.relu(hidden)
        if self.minibatch_stddev:
            hidden = minibatch_stddev(hidden, self.minibatch_stddev)
        features = hidden.sum((1, 2)) if self.pool == "sum" else hidden.mean((1, 2))
        return discriminate(self, features, labels, train, kernel_init=init)


# Twice the variance of glorot_uniform, for what a ReLU halves.
RESIDUAL = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


def scaled_normal(gain: float, fan_in: int) -> Initializer:
    """N(0, gain^2 / fan_in)."""
    return nn.initializers.normal(gain / math.sqrt(fan_in))


class R3GANBlock(nn.Module):
    """inputs + 1x1, 3x3 in groups of `group_size` channels, 1x1: `expansion` times as wide between.

    Biases and leaky ReLU after the first two, no normalisation; at first the block is the identity.
    `depth` is the number of blocks in the network, by which weights are scaled.
    Source: Huang et al. 2024, section 4.2.
    """

    expansion: int
    group_size: int
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        channels = inputs.shape[-1]
        wide = self.expansion * channels
        groups = max(1, wide // self.group_size)
        if groups > MOST_GROUPS:
            raise ValueError(
                f"group_size={self.group_size} makes {groups:,} groups of {wide:,} channels, and "
                f"{MOST_GROUPS:,} are the most"
            )
        if wide % groups:
            raise ValueError(f"group_size={self.group_size} does not divide {wide:,} channels")
        gain = math.sqrt(2 / (1 + SLOPE**2)) * self.depth**-0.25
        conv = functools.partial(Conv, stride=1, dtype=self.dtype)
        hidden = conv(wide, size=1, kernel_init=scaled_normal(gain, channels))(inputs)
        init = scaled_normal(gain, 9 * wide // groups)
        hidden = conv(wide, size=3, groups=groups, kernel_init=init)(nn.leaky_relu(hidden, SLOPE))
        zeros = nn.initializers.zeros
        hidden = nn.leaky_relu(hidden, SLOPE)
        return inputs + conv(channels, size=1, use_bias=False, kernel_init=zeros)(hidden)


def stage_widths(widths: tuple[int, ...], num: int) -> list[int]:
    """Channels of `num` stages from the basis up; the last of `widths` is repeated.

    Raises:
      ValueError: there are none, more than stages, or they are no sizes.
    """
    if not widths or not all(isinstance(w, int) and w > 0 for w in widths):
        raise ValueError(f"widths={widths} must be one positive number or more")
    if len(widths) > num:
        raise ValueError(f"widths={widths} are of {len(widths)} stages, and there are {num}")
    return [*widths, *[widths[-1]] * (num - len(widths))]


class R3GANGenerator(nn.Module):
    """A learned basis, scaled by the latents, then stages of residual blocks; a linear output.

    The first stage has the basis' 4 to 7 pixels, each further one twice as many. `widths` are the
    stages' channels, the basis' first, the last repeated; `blocks` a stage; `expansion` and
    `group_size` as in `R3GANBlock`, `remat` as in `in_block`. An embedding of the label, as long as
    the latents, is joined to them. The paper's for CIFAR-10: widths (768,). In bfloat16 the first
    stage stays in float32. Deviation: the basis is 4 to 7 pixels, as the resolution asks.
    Source: Huang et al. 2024, section 4 and appendix D.
    """

    shape: tuple[int, int, int]
    widths: tuple[int, ...] = (64,)
    blocks: int = 2
    expansion: int = 2
    group_size: int = 16
    remat: bool = False
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        basis, times = image_basis(self.shape)
        widths = stage_widths(self.widths, times + 1)
        if labels is not None:
            init = scaled_normal(1, self.num_classes)
            embedded = nn.Embed(self.num_classes, latents.shape[-1], embedding_init=init)(labels)
            latents = jnp.concatenate([latents, embedded], axis=-1)
        init = scaled_normal(1, latents.shape[-1])
        scale = nn.Dense(widths[0], use_bias=False, kernel_init=init)(latents)
        shape = (basis, basis, widths[0])
        hidden = scale[:, None, None] * self.param("basis", nn.initializers.normal(1.0), shape)
        depth = self.blocks * len(widths)

        def residual(dtype: Any, _: R3GANGenerator, inputs: jax.Array) -> jax.Array:
            return R3GANBlock(self.expansion, self.group_size, depth, dtype)(inputs)

        for stage, width in enumerate(widths):
            dtype = self.dtype if stage else jnp.float32
            hidden = hidden.astype(dtype)
            if stage:
                hidden = upsample(resize_channels(hidden, width))
            for _ in range(self.blocks):
                hidden = in_block(self, functools.partial(residual, dtype))(self, hidden)
        return resize_channels(hidden, self.shape[2], always=True).astype(jnp.float32)


class R3GANDiscriminator(nn.Module):
    """The generator's stages in reverse, then a depthwise convolution of the whole basis, a logit.

    Fields as the generator's; `minibatch_stddev` as in dcgan. Labels are projected: the last
    features, as many as the basis has channels, times an embedding.
    Source: Huang et al. 2024, section 4 and appendix D.
    """

    widths: tuple[int, ...] = (64,)
    blocks: int = 2
    expansion: int = 2
    group_size: int = 16
    minibatch_stddev: int = 0
    remat: bool = False
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        _, times = image_basis(images.shape[1:])
        widths = stage_widths(self.widths, times + 1)
        hidden = resize_channels(images.astype(self.dtype), widths[-1], always=True)
        depth = self.blocks * len(widths)

        def residual(dtype: Any, _: R3GANDiscriminator, inputs: jax.Array) -> jax.Array:
            return R3GANBlock(self.expansion, self.group_size, depth, dtype)(inputs)

        for stage in reversed(range(len(widths))):
            dtype = self.dtype if stage else jnp.float32
            hidden = hidden.astype(dtype)
            for _ in range(self.blocks):
                hidden = in_block(self, functools.partial(residual, dtype))(self, hidden)
            if stage:
                hidden = resize_channels(downsample(hidden), widths[stage - 1])
        if self.minibatch_stddev:
            hidden = minibatch_stddev(hidden, self.minibatch_stddev)
        shape = hidden.shape[1:]
        init = scaled_normal(1, shape[0] * shape[1])
        features = jnp.einsum("bhwc,hwc->bc", hidden, self.param("head", init, shape))
        size = widths[0] if labels is not None else 1
        init = scaled_normal(1, shape[2])
        logits = nn.Dense(size, use_bias=False, kernel_init=init)(features)
        if labels is None:
            return logits[:, 0]
        init = scaled_normal(1 / math.sqrt(size), self.num_classes)
        embedded = nn.Embed(self.num_classes, size, embedding_init=init)(labels)
        return jnp.sum(logits * embedded, axis=-1)


def resize_channels(images: jax.Array, channels: int, always: bool = False) -> jax.Array:
    """A 1x1 convolution without bias to another number of channels; to the same if `always`."""
    width = images.shape[-1]
    if width == channels and not always:
        return images
    init = scaled_normal(1, width)
    conv = Conv(channels, 1, 1, use_bias=False, dtype=images.dtype, kernel_init=init)
    return conv(images)


def network_fields(network: type[nn.Module]) -> dict[str, Any]:
    """The fields of a network that a config may set, with their defaults."""
    fixed = {"shape", "num_classes", "dtype", "parent", "name"}
    return {f.name: f.default for f in dataclasses.fields(network) if f.name not in fixed}


GENERATORS: dict[str, type[nn.Module]] = {
    "mlp": MLPGenerator,
    "dcgan": DCGANGenerator,
    "resnet": ResNetGenerator,
    "r3gan": R3GANGenerator,
}
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "mlp": MLPDiscriminator,
    "dcgan": DCGANDiscriminator,
    "resnet": ResNetDiscriminator,
    "r3gan": R3GANDiscriminator,
}

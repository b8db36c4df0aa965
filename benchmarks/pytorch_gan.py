"""The same GANs and the same step in PyTorch, as its users write them, to compare ourselves with.

Networks, losses, penalties, Adam and the moving average are those of a Twoplayer config; images
are NCHW in [-1, 1]. `from_state` copies a state's parameters, so that both begin alike:
tests/test_benchmarks.py compares their first losses.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn

import gan as gans
import models

SLOPE = models.SLOPE


def perceptron(inputs: int, network: Any, outputs: int) -> nn.Sequential:
    sizes = [inputs, *[network.width] * network.depth]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


class MLPGenerator(nn.Module):
    def __init__(self, gan: gans.Gan, shape: Sequence[int]) -> None:
        super().__init__()
        network: Any = gan.generator
        self.layers = perceptron(gan.latent_dim, network, int(np.prod(shape)))
        self.shape = shape

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents).view(-1, *self.shape)


class MLPDiscriminator(nn.Module):
    def __init__(self, gan: gans.Gan, shape: Sequence[int]) -> None:
        super().__init__()
        network: Any = gan.discriminator
        self.layers = perceptron(int(np.prod(shape)), network, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.flatten(1)).squeeze(1)


class DCGANGenerator(nn.Module):
    def __init__(self, gan: gans.Gan, shape: Sequence[int]) -> None:
        super().__init__()
        network: Any = gan.generator
        self.basis, times = models.image_basis((*shape[1:], shape[0]))
        self.channels = channels = network.width << (times - 1)
        self.project = nn.Linear(gan.latent_dim, self.basis**2 * channels, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(channels), nn.ReLU()]
        for _ in range(times - 1):
            layers += [nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False)]
            channels //= 2
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        self.layers = nn.Sequential(
            *layers, nn.ConvTranspose2d(channels, shape[0], 4, 2, 1), nn.Tanh()
        )

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.project(latents).view(-1, self.channels, self.basis, self.basis)
        return self.layers(hidden)


class DCGANDiscriminator(nn.Module):
    def __init__(self, gan: gans.Gan, shape: Sequence[int]) -> None:
        super().__init__()
        network: Any = gan.discriminator
        self.basis, times = models.image_basis((*shape[1:], shape[0]))
        channels = shape[0]
        layers: list[nn.Module] = []
        for i in range(times):
            normalised = network.norm == "batch" and i > 0
            layers.append(nn.Conv2d(channels, network.width << i, 4, 2, 1, bias=not normalised))
            channels = network.width << i
            if normalised:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.LeakyReLU(SLOPE))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * self.basis**2, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


class R3GANBlock(nn.Module):
    def __init__(self, channels: int, network: Any) -> None:
        super().__init__()
        wide = network.expansion * channels
        groups = max(1, wide // network.group_size)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(wide, wide, 3, padding=1, groups=groups),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(wide, channels, 1, bias=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        return images + self.layers(images)


class Resample(nn.Module):
    """Twice or half the resolution through the filter [1, 3, 3, 1], zeros outside."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / (4 if up else 8)
        kernel = torch.outer(row, row).repeat(channels, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=False)
        self.resample: Any = F.conv_transpose2d if up else F.conv2d
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        return self.resample(images, self.kernel, stride=2, padding=1, groups=self.channels)


def resize_channels(before: int, after: int, always: bool = False) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 1, bias=False)] if always or before != after else []


def r3gan_stage(channels: int, network: Any) -> nn.Sequential:
    return nn.Sequential(*(R3GANBlock(channels, network) for _ in range(network.blocks)))


class R3GANGenerator(nn.Module):
    """Its lowest stage is in float32 under autocast, too, as is D's."""

    def __init__(self, gan: gans.Gan, shape: Sequence[int]) -> None:
        super().__init__()
        network: Any = gan.generator
        basis, times = models.image_basis((*shape[1:], shape[0]))
        widths = models.stage_widths(network.widths, times + 1)
        self.scale = nn.Linear(gan.latent_dim, widths[0], bias=False)
        self.basis = nn.Parameter(torch.randn(widths[0], basis, basis))
        self.lowest = r3gan_stage(widths[0], network)
        layers: list[nn.Module] = []
        for before, width in itertools.pairwise(widths):
            layers += [*resize_channels(before, width), Resample(width, up=True)]
            layers += r3gan_stage(width, network)
        self.layers = nn.Sequential(*layers, *resize_channels(widths[-1], shape[0], always=True))

    def forward(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            hidden = self.lowest(self.scale(latents)[:, :, None, None] * self.basis)
        return self.layers(hidden).float()


class R3GANDiscriminator(nn.Module):
    def __init__(self, gan: gans.Gan, shape: Sequence[int]) -> None:
        super().__init__()
        network: Any = gan.discriminator
        basis, times = models.image_basis((*shape[1:], shape[0]))
        widths = models.stage_widths(network.widths, times + 1)
        layers = resize_channels(shape[0], widths[-1], always=True)
        for width, after in itertools.pairwise(reversed(widths)):
            layers += r3gan_stage(width, network)
            layers += [Resample(width, up=False), *resize_channels(width, after)]
        self.layers = nn.Sequential(*layers)
        self.lowest = r3gan_stage(widths[0], network)
        self.head = nn.Conv2d(widths[0], widths[0], basis, groups=widths[0], bias=False)
        self.logit = nn.Linear(widths[0], 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layers(images).float()
        with torch.autocast(images.device.type, enabled=False):
            return self.logit(self.head(self.lowest(hidden)).flatten(1)).squeeze(1)


GENERATORS = {"mlp": MLPGenerator, "dcgan": DCGANGenerator, "r3gan": R3GANGenerator}
DISCRIMINATORS = {"mlp": MLPDiscriminator, "dcgan": DCGANDiscriminator, "r3gan": R3GANDiscriminator}


def minimax(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return (F.softplus(-real) + F.softplus(fake)).mean(), -F.softplus(fake).mean()


def non_saturating(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return (F.softplus(-real) + F.softplus(fake)).mean(), F.softplus(-fake).mean()


def relativistic_paired(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return F.softplus(fake - real).mean(), F.softplus(real - fake).mean()


LOSSES = {f.__name__: f for f in (minimax, non_saturating, relativistic_paired)}


class Trainer:
    """A GAN's players, optimisers and step; the config's numbers, which are constant here.

    Attributes:
      generator, discriminator: modules.
      average: the generator whose parameters follow.
    """

    def __init__(
        self,
        config: ConfigDict,
        gan: gans.Gan,
        shape: Sequence[int],
        device: str = "cpu",
        *,
        compiled: bool = False,
        tuned: bool = False,
        channels_last: bool = False,
        graphs: bool = False,
    ) -> None:
        """Args:
        config: what `gan` was made of.
        gan: static.
        shape: of an image, [C, H, W].
        device: of torch.
        compiled: the networks, by `torch.compile`, which has no second derivatives: D itself runs
          where its gradient is penalised.
        tuned: and kernels of its own are tried beside the libraries', for the fastest.
        channels_last: images and kernels in that order in memory.
        graphs: the step is to be recorded (`Graphs`).
        """
        if device == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, as in JAX
            torch.backends.cudnn.benchmark = True
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.config, self.device, self.layout = config, device, layout
        self.dtype = torch.bfloat16 if config.precision == "bfloat16" else None
        generator: Any = GENERATORS[config.generator.name](gan, shape)
        discriminator: Any = DISCRIMINATORS[config.discriminator.name](gan, shape)
        self.generator = generator.to(device, memory_format=layout)
        self.discriminator = discriminator.to(device, memory_format=layout)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.call_generator: Any = self.generator
        self.call_discriminator: Any = self.discriminator
        if compiled:
            mode = "max-autotune-no-cudagraphs" if tuned else None
            self.call_generator = torch.compile(self.generator, mode=mode)
            self.call_discriminator = torch.compile(self.discriminator, mode=mode)
        self.loss, self.latent_dim = LOSSES[config.loss], gan.latent_dim
        self.optimizers = {
            name: torch.optim.Adam(
                getattr(self, name).parameters(),
                lr=config.optimizer[name].learning_rate,
                betas=(config.optimizer[name].b1, config.optimizer[name].b2),
                fused=True,
                capturable=graphs,
            )
            for name in ("generator", "discriminator")
        }
        half_life = config.ema_half_life
        self.averaged, self.followed = map(_numbers, (self.average, self.generator))
        self.keep = 0.5 ** (config.batch_size / half_life) if half_life else 0.0

    def to_float(self, images: Tensor) -> Tensor:
        """uint8 images as float32 in [-1, 1]."""
        return (images.float() / 127.5 - 1).contiguous(memory_format=self.layout)

    def step(
        self, number: int, images: Sequence[Tensor], latents: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One update of D, one of G, the average's; (d_loss, g_loss).

        Args:
          number: of the step, from 0: lazy penalties come in every `lazy_every`-th.
          images: float [B, C, H, W] of D's update and of G's.
          latents: [B, latent_dim] of both; None: drawn here.
        """
        if latents is None:
            size = (2, len(images[0]), self.latent_dim)
            latents = torch.randn(size, device=self.device).unbind()
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            d_loss = self.discriminator_loss(number, images[0], latents[0])
        self.descend("discriminator", d_loss)
        self.discriminator.requires_grad_(False)
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            g_loss = self.generator_loss(images[1], latents[1])
        self.descend("generator", g_loss)
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.followed, 1 - self.keep)
        return d_loss.detach(), g_loss.detach()

    def discriminator_loss(self, number: int, images: Tensor, latents: Tensor) -> Tensor:
        with torch.no_grad():
            fake = self.call_generator(latents)
        weights = self.config.penalties
        lazy = (number + 1) % self.config.lazy_every == 0
        real = images.requires_grad_(lazy and weights.r1 > 0)
        fake = fake.requires_grad_(lazy and weights.r2 > 0)
        penalised = real.requires_grad or fake.requires_grad
        call = self.discriminator if penalised else self.call_discriminator
        real_logits, fake_logits = call(real), call(fake)
        loss, _ = self.loss(real_logits, fake_logits)
        for inputs, logits, weight in (
            (real, real_logits, weights.r1),
            (fake, fake_logits, weights.r2),
        ):
            if inputs.requires_grad:
                (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
                penalty = gradient.square().sum((1, 2, 3)).mean() / 2
                loss = loss + weight * self.config.lazy_every * penalty
        return loss

    def generator_loss(self, images: Tensor, latents: Tensor) -> Tensor:
        fake_logits = self.call_discriminator(self.call_generator(latents))
        if self.loss is not relativistic_paired:
            return self.loss(fake_logits, fake_logits)[1]
        with torch.no_grad():
            real_logits = self.call_discriminator(images)
        return self.loss(real_logits, fake_logits)[1]

    def descend(self, player: str, loss: Tensor) -> None:
        self.optimizers[player].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[player].step()


class Graphs:
    """A step as CUDA graphs, which are recorded once and then replayed: no call but one a step.

    Those with penalties and those without are two.
    """

    def __init__(self, step: Callable[[int, Tensor], Any], lazy_every: int) -> None:
        """Args:
        step: of its number and which images it takes, on the device.
        lazy_every: the steps that differ.
        """
        self.step, self.lazy_every = step, lazy_every
        self.recorded: dict[bool, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, number: int, rows: Tensor) -> None:
        lazy = (number + 1) % self.lazy_every == 0
        if lazy not in self.recorded:
            self.recorded[lazy] = self.record(number, rows.clone())
        graph, recorded_rows = self.recorded[lazy]
        recorded_rows.copy_(rows)
        graph.replay()

    def record(self, number: int, rows: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """After some steps on a stream of their own, which choose algorithms and compile."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(number, rows)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(number, rows)
        return graph, rows


def _numbers(module: nn.Module) -> list[Tensor]:
    """Parameters and batch statistics."""
    return [x for x in (*module.parameters(), *module.buffers()) if x.is_floating_point()]


def from_state(trainer: Trainer, state: gans.GanState) -> None:
    """Copies the parameters of a state of the same networks, before its first step."""
    _load(trainer.generator, state.generator.params)
    _load(trainer.discriminator, state.discriminator.params)
    trainer.average.load_state_dict(trainer.generator.state_dict())


NAMES = {
    nn.Linear: "Dense",
    nn.Conv2d: "Conv",
    nn.ConvTranspose2d: "Conv",
    nn.BatchNorm2d: "BatchNorm",
    R3GANBlock: "R3GANBlock",
}


def _load(module: nn.Module, params: dict[str, Any]) -> None:
    """Flax's parameters, numbered by kind in the order of the layers."""
    params = dict(params)
    if isinstance(module, R3GANGenerator):
        _set(module.basis, np.transpose(params.pop("basis"), (2, 0, 1)))
    if isinstance(module, R3GANDiscriminator):
        _set(module.head.weight, np.transpose(params.pop("head"), (2, 0, 1))[:, None])
    for layer in _layers(module):
        kind = NAMES[type(layer)]
        number = min(int(name.partition("_")[2]) for name in params if name.startswith(f"{kind}_"))
        own = params.pop(f"{kind}_{number}")
        if isinstance(layer, R3GANBlock):
            _load(layer.layers, own)
            continue
        if kind == "Conv":
            weight = np.transpose(own["kernel"], (3, 2, 0, 1))
        elif kind == "BatchNorm":
            weight = own["scale"]
        else:
            weight = np.transpose(own["kernel"])
            if isinstance(
                module, DCGANGenerator
            ):  # pixels by channels, where PyTorch has them last
                weight = weight.reshape(module.basis, module.basis, module.channels, -1)
                weight = weight.transpose(2, 0, 1, 3).reshape(layer.weight.shape)
            elif isinstance(module, DCGANDiscriminator):
                weight = weight.reshape(1, module.basis, module.basis, -1)
                weight = weight.transpose(0, 3, 1, 2).reshape(layer.weight.shape)
        _set(layer.weight, weight)
        if layer.bias is not None:
            _set(layer.bias, own["bias"])
    assert not params, f"{list(params)} belong to no layer"


def _layers(module: nn.Module) -> Iterable[Any]:
    """What has parameters, in order; a block as one, what is loaded by its own name not at all."""
    for name, child in module.named_children():
        if type(child) in NAMES and name != "head":
            yield child
        elif type(child) not in NAMES:
            yield from _layers(child)


def _set(parameter: Tensor, value: Any) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.array(value)))

"""The heart: a GAN as pure functions. `make_gan`, `init`, `update`, `sample`; no input or output.

    gan = make_gan(config, spec)
    state = init(gan, config, jax.random.key(0))
    state, metrics = update(gan, state, batch)

`Gan` is static: what changes the structure of the program. `GanState` is a pytree: everything that
training changes, and every number that a sweep may vary. jit, vmap, scan, shard and donate it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from augment import AUGMENTATIONS
from losses import LOSSES
from models import DISCRIMINATORS, GENERATORS, network_fields
from penalties import PENALTIES

if TYPE_CHECKING:
    from ml_collections import ConfigDict

OPTIMIZERS = {f.__name__: f for f in (optax.sgd, optax.adam)}
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

Params = Any  # a pytree of arrays
Batch = Mapping[str, Any]  # arrays by name


@dataclasses.dataclass(frozen=True)
class Gan:
    """What is fixed for a compiled program. Equal for equal configs, hashable: a static argument.

    Attributes:
      generator, discriminator: Flax modules (models.py).
      generator_optimizer, discriminator_optimizer: names in OPTIMIZERS. Optax transformations never
        compare equal, so they are built inside `update`.
      loss: a name in LOSSES.
      penalties: names in PENALTIES, of those whose weight is not 0.
      augmentations: (name in AUGMENTATIONS, strength), of those whose strength is not 0.
      latent_dim: size of a latent.
      batch_size: examples of one update of one player.
      accumulate: micro-batches that a batch is split into.
      d_steps: discriminator updates before each generator update.
      lazy_every: the penalties are in every so-manieth step, that much heavier.
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: str
    discriminator_optimizer: str
    loss: str
    penalties: tuple[str, ...]
    augmentations: tuple[tuple[str, float], ...]
    latent_dim: int
    batch_size: int
    accumulate: int
    d_steps: int
    lazy_every: int


class Network(struct.PyTreeNode):
    """A network's numbers: parameters, and variables such as batch statistics."""

    params: Params
    variables: Params


class Player(struct.PyTreeNode):
    """A network in training, with the state of its own optimiser."""

    params: Params
    variables: Params
    opt_state: optax.OptState


class GanState(struct.PyTreeNode):
    """Everything that training changes, and the hyper-parameters.

    Attributes:
      step: int32 scalar, generator updates so far.
      key: typed PRNG key; step k draws from `fold_in(key, k)`.
      generator, discriminator: the players.
      average: the generator's exponential moving average.
      aux: what penalties and augmentations carry from step to step, by name.
      hparams: float32 scalars, the numbers that a sweep may vary: `generator` and `discriminator`
        (the optimiser's arguments), `penalties` (weights by name), `ema_half_life` (images).
    """

    step: jax.Array
    key: jax.Array
    generator: Player
    discriminator: Player
    average: Network
    aux: dict[str, Any]
    hparams: dict[str, Any]


def make_gan(config: ConfigDict, spec: Any) -> Gan:
    """The static part of a GAN.

    Args:
      config: see configs/default.py; checks.py says in words what is wrong with one.
      spec: data.py's `Spec`: the shape of an example among others.
    """
    precision = PRECISIONS[config.precision]

    def build(module: type[nn.Module], settings: ConfigDict, **fixed: Any) -> nn.Module:
        own = {name: settings[name] for name in network_fields(module) if name in settings}
        chosen = {name: value for name, value in own.items() if value is not None}
        return module(**chosen, **fixed, dtype=precision)

    return Gan(
        generator=build(GENERATORS[config.generator.name], config.generator, shape=spec.shape),
        discriminator=build(DISCRIMINATORS[config.discriminator.name], config.discriminator),
        generator_optimizer=config.optimizer.generator.name,
        discriminator_optimizer=config.optimizer.discriminator.name,
        loss=config.loss,
        penalties=tuple(name for name, weight in sorted(config.penalties.items()) if weight),
        augmentations=tuple(
            (name, value) for name, value in sorted(config.augment.items()) if value
        ),
        latent_dim=config.latent_dim,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        d_steps=config.d_steps,
        lazy_every=config.lazy_every,
    )


def batch_shape(gan: Gan) -> tuple[int, int, int]:
    """How many examples `update` takes: updates, micro-batches, examples of a micro-batch."""
    return gan.d_steps + 1, gan.accumulate, gan.batch_size // gan.accumulate


def abstract_batch(gan: Gan) -> Batch:
    """The shapes and types of the batch that `update` takes."""
    shape = gan.generator.shape  # type: ignore[attr-defined]
    dtype = jnp.uint8 if len(shape) == 3 else jnp.float32
    return {"images": jax.ShapeDtypeStruct((*batch_shape(gan), *shape), dtype)}


def metric_names(gan: Gan, config: ConfigDict) -> list[str]:
    """The names of the metrics that `update` returns."""
    state = jax.eval_shape(lambda: init(gan, config, jax.random.key(0)))
    metrics = jax.eval_shape(lambda *inputs: update(gan, *inputs)[1], state, abstract_batch(gan))
    return sorted(metrics)


def optimizer_fields(name: str) -> set[str]:
    """The arguments of an optimiser."""
    return set(inspect.signature(OPTIMIZERS[name]).parameters)


def init(gan: Gan, config: ConfigDict, key: jax.Array) -> GanState:
    """The state before the first step.

    Args:
      gan: from `make_gan` of the same config.
      config: where the hyper-parameters' numbers come from.
      key: a typed PRNG key; one a member of a population.
    """
    state = _init_state(gan, hyper_parameters(gan, config), key)
    # The moving average starts as the generator, in arrays of its own, so that both can be donated.
    return state.replace(average=jax.tree.map(jnp.copy, state.average))


def init_networks(gan: Gan, key: jax.Array) -> tuple[Network, Network]:
    """The first numbers of the generator and the discriminator."""
    g_key, d_key = jax.random.split(key)
    latents = jnp.zeros((2, gan.latent_dim))
    fake, g_variables = gan.generator.init_with_output(g_key, latents, train=True)
    d_variables = gan.discriminator.init(d_key, fake, train=True)
    g_params, d_params = g_variables.pop("params"), d_variables.pop("params")
    return Network(g_params, g_variables), Network(d_params, d_variables)


def hyper_parameters(gan: Gan, config: ConfigDict) -> dict[str, Any]:
    """The numbers of a config that a sweep may vary, as float32 scalars: `GanState.hparams`."""
    numbers: dict[str, Any] = {"ema_half_life": config.ema_half_life}
    numbers["penalties"] = {name: config.penalties[name] for name in gan.penalties}
    for player in ("generator", "discriminator"):
        optimizer = config.optimizer[player]
        names = optimizer_fields(optimizer.name)
        numbers[player] = {name: optimizer[name] for name in sorted(names) if name in optimizer}
    return jax.tree.map(jnp.float32, numbers)


def update(
    gan: Gan, state: GanState, batch: Batch, lazy: bool = True
) -> tuple[GanState, dict[str, jax.Array]]:
    """One step: `d_steps` updates of the discriminator, then one of the generator.

    Args:
      gan: static.
      state: of one member; `jax.vmap` takes a population.
      batch: `images` uint8 [d_steps + 1, accumulate, batch_size // accumulate, H, W, C] (points:
        float32 [..., 2]), one fresh batch an update; the last is the generator's, which
        relativistic losses look at.
      lazy: static; whether this step carries the penalties: one in `lazy_every` does.
    Returns:
      The next state, and float32 scalars by name: `d_loss`, `g_loss`, `d_accuracy` (share of real
      and fake images that D tells right), `d_grad_norm`, `g_grad_norm`, each penalty.
    """
    key, *d_keys = jax.random.split(jax.random.fold_in(state.key, state.step), gan.d_steps + 1)
    discriminator = state.discriminator
    for d_key, images in zip(d_keys, batch["images"]):
        discriminator, d_metrics = _descend(
            gan.discriminator_optimizer,
            state.hparams["discriminator"],
            discriminator,
            partial(discriminator_loss, gan, state.hparams, lazy, state.generator),
            _prepare(gan, d_key, images),
            rolled=_rolls(state),
        )
    generator, g_metrics = _descend(
        gan.generator_optimizer,
        state.hparams["generator"],
        state.generator,
        partial(generator_loss, gan, discriminator),
        _prepare(gan, key, batch["images"][-1]),
        rolled=_rolls(state),
    )
    d_metrics["d_grad_norm"] = d_metrics.pop("grad_norm")
    g_metrics["g_grad_norm"] = g_metrics.pop("grad_norm")
    metrics = d_metrics | g_metrics
    state = state.replace(
        step=state.step + 1,
        generator=generator,
        discriminator=discriminator,
        average=_move_average(gan, state, generator),
    )
    return state, metrics


def discriminator_loss(
    gan: Gan,
    hparams: dict[str, Any],
    lazy: bool,
    generator: Player,
    params: Params,
    variables: Params,
    real: jax.Array,
    latents: jax.Array,
) -> tuple[jax.Array, tuple[Params, dict[str, jax.Array]]]:
    """What D descends on one micro-batch: (loss, (D's new variables, metrics)).

    Real and fake images pass D apart, so that each batch has its own batch statistics.
    """
    fake, _ = _apply(gan.generator, generator.params, generator.variables, latents)
    fake = jax.lax.stop_gradient(fake)
    real_logits, new_variables = _apply(gan.discriminator, params, variables, real)
    fake_logits, new_variables = _apply(gan.discriminator, params, new_variables, fake)
    d_losses, _ = LOSSES[gan.loss](real_logits, fake_logits)
    loss = d_losses.mean()
    right = jnp.mean(real_logits > 0) + jnp.mean(fake_logits < 0)
    metrics = {"d_loss": loss, "d_accuracy": right / 2}
    for name in gan.penalties if lazy else ():
        penalty = PENALTIES[name](
            lambda images: _apply(gan.discriminator, params, variables, images)[0], real, fake
        ).mean()
        loss += gan.lazy_every * hparams["penalties"][name] * penalty
        metrics[name] = penalty
    return loss, (new_variables, metrics)


def generator_loss(
    gan: Gan,
    discriminator: Player,
    params: Params,
    variables: Params,
    real: jax.Array,
    latents: jax.Array,
) -> tuple[jax.Array, tuple[Params, dict[str, jax.Array]]]:
    """What G descends on one micro-batch: (loss, (G's new variables, metrics)).

    D's variables stay as they are: they change in its own updates only.
    """
    fake, new_variables = _apply(gan.generator, params, variables, latents)
    d_params, d_variables = discriminator.params, discriminator.variables
    real_logits, d_variables = _apply(gan.discriminator, d_params, d_variables, real)
    fake_logits, _ = _apply(gan.discriminator, d_params, d_variables, fake)
    _, g_losses = LOSSES[gan.loss](real_logits, fake_logits)
    loss = g_losses.mean()
    return loss, (new_variables, {"g_loss": loss})


def draw_latents(gan: Gan, key: jax.Array, num: int) -> jax.Array:
    """z ~ N(0, I): [num, latent_dim]."""
    return jax.random.normal(key, (num, gan.latent_dim))


def sample(gan: Gan, network: Network | Player, latents: jax.Array) -> jax.Array:
    """Examples [B, *shape] float32 of latents [B, latent_dim], with running batch statistics.

    Args:
      gan: static.
      network: `state.average`, or `state.generator`.
      latents: from `draw_latents`.
    """
    variables = {"params": network.params, **network.variables}
    return cast(jax.Array, gan.generator.apply(variables, latents, train=False))


def to_float(images: jax.Array) -> jax.Array:
    """uint8 images as float32 in [-1, 1]; float32 points as they are."""
    if images.dtype != jnp.uint8:
        return images
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: jax.Array) -> jax.Array:
    """Float images in [-1, 1], clipped and rounded to uint8: what every picture and score sees."""
    return jnp.round((jnp.clip(images, -1, 1) + 1) * 127.5).astype(jnp.uint8)


@jax.jit(static_argnums=0)
def _init_state(gan: Gan, hparams: dict[str, Any], key: jax.Array) -> GanState:
    init_key, key = jax.random.split(key)
    generator, discriminator = init_networks(gan, init_key)
    players = {}
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        optimizer = OPTIMIZERS[getattr(gan, f"{name}_optimizer")](**hparams[name])
        opt_state = optimizer.init(network.params)
        players[name] = Player(network.params, network.variables, opt_state)
    return GanState(
        step=jnp.int32(0), key=key, average=generator, aux={}, hparams=hparams, **players
    )


def _apply(
    module: nn.Module, params: Params, variables: Params, inputs: jax.Array
) -> tuple[jax.Array, Params]:
    """The outputs in training, and the variables after it."""
    outputs, new_variables = module.apply(
        {"params": params, **variables}, inputs, train=True, mutable=list(variables)
    )
    return outputs, new_variables


def _prepare(gan: Gan, key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Real examples and latents of one update: [accumulate, micro-batch, ...] each.

    What is random is drawn for the whole batch, so that it is the same however it is split.
    """
    latent_key, *keys = jax.random.split(key, 1 + len(gan.augmentations))
    real = to_float(images).reshape(gan.batch_size, *images.shape[2:])
    for key, (name, strength) in zip(keys, gan.augmentations):
        real = AUGMENTATIONS[name](key, real, strength)  # type: ignore[arg-type]
    latents = draw_latents(gan, latent_key, gan.batch_size)
    return real.reshape(images.shape), latents.reshape(*images.shape[:2], gan.latent_dim)


def _rolls(state: GanState) -> bool:
    """Whether micro-batches run as a loop of the compiled program; else they are unrolled.

    XLA runs convolutions inside a loop single-threaded and naively on a CPU.
    """
    kernels = jax.tree.leaves((state.generator.params, state.discriminator.params))
    convolves = any(jnp.ndim(kernel) == 4 for kernel in kernels)
    return not convolves or jax.default_backend() != "cpu"


def _descend(
    optimizer_name: str,
    arguments: dict[str, jax.Array],
    player: Player,
    loss: Callable,
    inputs: tuple[jax.Array, ...],
    rolled: bool,
) -> tuple[Player, dict[str, jax.Array]]:
    """One descent of one player on the mean gradient over its micro-batches."""

    def gradient(variables: Params, micro_batch: tuple[jax.Array, ...]) -> tuple[Params, Any]:
        grads, (variables, metrics) = jax.grad(loss, has_aux=True)(
            player.params, variables, *micro_batch
        )
        return variables, (grads, metrics)

    def add_gradient(carried: Any, micro_batch: tuple[jax.Array, ...]) -> tuple[Any, None]:
        variables, total = carried
        # Unrolled, nothing but this would keep XLA from running all micro-batches at once, in k
        # times the memory: the next one waits for the sum so far.
        nothing = sum(0 * jnp.ravel(leaf)[0] for leaf in jax.tree.leaves(total))
        micro_batch = tuple(examples + nothing for examples in micro_batch)
        variables, more = gradient(variables, micro_batch)
        return (variables, jax.tree.map(jnp.add, total, more)), None

    num, first = len(inputs[0]), tuple(examples[0] for examples in inputs)
    if rolled and num > 1:
        _, shapes = jax.eval_shape(gradient, player.variables, first)
        nothing_yet = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carried, _ = jax.lax.scan(add_gradient, (player.variables, nothing_yet), inputs)
    else:
        carried = gradient(player.variables, first)
        for micro_batch in zip(*(examples[1:] for examples in inputs)):
            carried, _ = add_gradient(carried, micro_batch)
    variables, total = carried
    grads, metrics = jax.tree.map(lambda x: x / num, total)
    optimizer = OPTIMIZERS[optimizer_name](**arguments)
    updates, opt_state = optimizer.update(grads, player.opt_state, player.params)
    metrics["grad_norm"] = optax.tree.norm(grads)
    return Player(optax.apply_updates(player.params, updates), variables, opt_state), metrics


def _move_average(gan: Gan, state: GanState, generator: Player) -> Network:
    """The average after a step, its weight halved every `ema_half_life` images (0: no memory)."""
    keep = 0.5 ** (gan.batch_size / state.hparams["ema_half_life"])
    return jax.tree.map(
        lambda old, new: new + keep * (old - new),
        state.average,
        Network(generator.params, generator.variables),
    )

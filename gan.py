"""The heart: a GAN as pure functions. `make_gan`, `init`, `update`, `sample`; no input or output.

    gan = make_gan(config, spec)
    state = init(gan, config, jax.random.key(0))
    state, metrics = update(gan, state, batch)

`Gan` is static: what changes the structure of the program. `GanState` is a pytree: everything that
training changes, and every number that a sweep may vary. jit, vmap, scan, shard and donate it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

import devices
from augment import AUGMENTATIONS, adapt, d_augment
from losses import LOSSES
from models import DISCRIMINATORS, GENERATORS, MOMENTUM, network_fields
from optimizers import OPTIMIZERS, clip_gradient, optimizer_fields, scheduled
from penalties import PENALTIES, Seen, lecam_averages, squared
from piecewise import NotPiecewiseLinear, logits_and_gradients

if TYPE_CHECKING:
    from ml_collections import ConfigDict

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Who answers whom in a step: D moves first, both at once, or both at once by the gradients of where
# that would lead (Korpelevich 1976; Gidel et al. 2019, "A variational inequality perspective on
# GANs", algorithm 2 with one batch for both).
UPDATE_RULES = ("alternating", "simultaneous", "extragradient")
# Numbers of a config that a sweep may vary, beside those of players and penalties.
NUMBERS = ("ema_half_life", "weight_clip", "d_augment_probability", "ada_target", "ada_images")
LOOK_KEY = 2**32 - 1  # folded into an update's key: no split of it reaches so far

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
      d_augmentations: (name in D_AUGMENTATIONS, share of their common probability), likewise.
      adaptive: the controller of ADA sets that probability.
      num_classes: of the labels that both networks are given; 0 where they are given none.
      packing: images that D judges as one.
      latent_dim: size of a latent.
      batch_size: examples of one update of one player.
      accumulate: micro-batches that a batch is split into.
      d_steps: discriminator updates before each generator update.
      update_rule: a name in UPDATE_RULES.
      standing_batches: of samples, for the average's batch statistics; 0: running ones.
      lazy_every: the penalties are in every so-manieth step, that much heavier.
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: str
    discriminator_optimizer: str
    loss: str
    penalties: tuple[str, ...]
    augmentations: tuple[tuple[str, float], ...]
    d_augmentations: tuple[tuple[str, float], ...]
    adaptive: bool
    num_classes: int
    packing: int
    latent_dim: int
    batch_size: int
    accumulate: int
    d_steps: int
    update_rule: str
    standing_batches: int
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


class Examples(NamedTuple):
    """What a player looks at in one update: [accumulate, micro-batch, ...], or one micro-batch.

    Attributes:
      real: float32 examples.
      labels: int32, of real and fake examples alike; None where the networks are given none.
      latents: of the fake examples.
      keys: [..., 3] PRNG keys of what is drawn where D looks at a real example, at the fake one
        beside it, and in a penalty.
    """

    real: jax.Array
    labels: jax.Array | None
    latents: jax.Array
    keys: jax.Array


class GanState(struct.PyTreeNode):
    """Everything that training changes, and the hyper-parameters.

    Attributes:
      step: int32 scalar, generator updates so far.
      key: typed PRNG key; step k draws from `fold_in(key, k)`.
      generator, discriminator: the players.
      average: the generator's exponential moving average.
      aux: what penalties and augmentations carry from step to step, by name: `lecam` its averages,
        `ada` the probability of its augmentations.
      hparams: float32 scalars, the numbers that a sweep may vary: see `hyper_parameters`.
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
    Returns:
      What `init`, `update` and `sample` take first.
    """
    precision = PRECISIONS[config.precision]
    num_classes = (spec.num_classes or 0) if config.conditional else 0

    def build(module: type[nn.Module], settings: ConfigDict, **fixed: Any) -> nn.Module:
        own = {name: settings[name] for name in network_fields(module) if name in settings}
        chosen = {name: value for name, value in own.items() if value is not None}
        if num_classes:
            fixed["num_classes"] = num_classes
        return module(**chosen, **fixed, dtype=precision)

    def present(strengths: ConfigDict) -> tuple[tuple[str, Any], ...]:
        return tuple((name, value) for name, value in sorted(strengths.items()) if value)

    return Gan(
        generator=build(GENERATORS[config.generator.name], config.generator, shape=spec.shape),
        discriminator=build(DISCRIMINATORS[config.discriminator.name], config.discriminator),
        generator_optimizer=config.optimizer.generator.name,
        discriminator_optimizer=config.optimizer.discriminator.name,
        loss=config.loss,
        penalties=tuple(sorted(penalties_on(config))),
        augmentations=present(config.augment),
        d_augmentations=present(config.d_augment),
        adaptive=config.ada_target > 0,
        num_classes=num_classes,
        packing=config.packing,
        latent_dim=config.latent_dim,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        d_steps=config.d_steps,
        update_rule=config.update_rule,
        standing_batches=config.standing_statistics,
        lazy_every=config.lazy_every,
    )


def penalties_on(config: ConfigDict) -> list[str]:
    """The names of the penalties that have a weight, at first or at the end of their schedule."""
    weights = config.penalties
    ends = weights if not config.decay_images else {n: weights[f"{n}_end"] for n in PENALTIES}
    return [name for name in PENALTIES if weights[name] or ends[name]]


def batch_shape(gan: Gan) -> tuple[int, int, int]:
    """How many examples `update` takes: updates, micro-batches, examples of a micro-batch."""
    return gan.d_steps + 1, gan.accumulate, gan.batch_size // gan.accumulate


def abstract_batch(gan: Gan) -> Batch:
    """The shapes and types of the batch that `update` takes."""
    shape, sizes = gan.generator.shape, batch_shape(gan)  # type: ignore[attr-defined]
    dtype = jnp.uint8 if len(shape) == 3 else jnp.float32
    batch = {"images": jax.ShapeDtypeStruct((*sizes, *shape), dtype)}
    if gan.num_classes:
        batch["labels"] = jax.ShapeDtypeStruct(sizes, jnp.int32)
    return batch


def abstract_state(gan: Gan, config: ConfigDict) -> GanState:
    """The shapes and types of what `init` makes."""
    return jax.eval_shape(lambda: init(gan, config, jax.random.key(0)))


def metric_names(gan: Gan, config: ConfigDict) -> list[str]:
    """The names of the metrics that `update` returns."""
    state, batch = abstract_state(gan, config), abstract_batch(gan)
    metrics = jax.eval_shape(lambda *inputs: update(gan, *inputs)[1], state, batch)
    return sorted(metrics)


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
    num = 2 * gan.packing
    latents = jnp.zeros((num, gan.latent_dim))
    labels = jnp.zeros(num, jnp.int32) if gan.num_classes else None
    fake, g_variables = gan.generator.init_with_output(g_key, latents, labels, train=True)
    d_variables = gan.discriminator.init(d_key, pack(fake, gan.packing), labels, train=True)
    networks = []
    for variables in (g_variables, d_variables):
        kept = {name: x for name, x in variables.items() if name not in ("params", "auxiliary")}
        networks.append(Network(variables["params"], kept))
    return networks[0], networks[1]


def hyper_parameters(gan: Gan, config: ConfigDict) -> dict[str, Any]:
    """The numbers of a config that a sweep may vary, as float32 scalars: `GanState.hparams`.

    `generator` and `discriminator` hold the optimiser's arguments and the `clip_norm`, `penalties`
    the weights by name; beside them are `ema_half_life`, `weight_clip`, `d_augment_probability`,
    `ada_target` and `ada_images`. `end` holds them all again, as they are after `decay_images`.
    """

    def numbers(suffix: str) -> dict[str, Any]:
        def chosen(settings: ConfigDict, names: Iterable[str]) -> dict[str, float]:
            values = {name: settings[name] for name in names if name in settings}
            ends = {
                name: settings[f"{name}{suffix}"] for name in names if f"{name}{suffix}" in settings
            }
            return values | {name: value for name, value in ends.items() if value is not None}

        found: dict[str, Any] = chosen(config, NUMBERS)
        found["penalties"] = chosen(config.penalties, gan.penalties)
        for player in ("generator", "discriminator"):
            optimizer = config.optimizer[player]
            names = optimizer_fields(optimizer.name) | {"clip_norm"}
            found[player] = chosen(optimizer, sorted(names))
        return found

    end = numbers("_end" if config.decay_images else "")
    every = numbers("") | {"end": end, "decay_images": config.decay_images}
    return jax.tree.map(np.float32, every)


def update(
    gan: Gan, state: GanState, batch: Batch, lazy: bool = True
) -> tuple[GanState, dict[str, jax.Array]]:
    """One step: `d_steps` updates of the discriminator, one of the generator, by `update_rule`.

    Args:
      gan: static.
      state: of one member; `jax.vmap` takes a population.
      batch: `images` uint8 [d_steps + 1, accumulate, batch_size // accumulate, H, W, C] (points:
        float32 [..., 2]) and, for networks with labels, `labels` int32 [d_steps + 1, accumulate,
        batch_size // accumulate]; one fresh batch an update, the last is the generator's, which
        relativistic losses look at.
      lazy: static; whether this step carries the penalties: one in `lazy_every` does.
    Returns:
      The next state, and float32 scalars by name: `d_loss`, `g_loss`, `d_accuracy` (share of real
      images with logits above 0 and fake ones below; of a loss in losses.py's SHIFTED that says
      little), `d_real_logit`, `d_fake_logit` (their means),
      `d_grad_norm`, `g_grad_norm`, each penalty; `d_class_loss`, `g_class_loss` of an auxiliary
      classifier; of ADA `d_real_sign` and `ada_probability`.
    """
    ahead = None
    if gan.update_rule == "extragradient":
        ahead, _ = update(dataclasses.replace(gan, update_rule="simultaneous"), state, batch, lazy)
    numbers = numbers_now(gan, state)
    key, *d_keys = jax.random.split(jax.random.fold_in(state.key, state.step), gan.d_steps + 1)
    discriminator, aux = state.discriminator, state.aux
    for i, d_key in enumerate(d_keys):
        at = ahead or state.replace(discriminator=discriminator, aux=aux)
        grads, variables, d_metrics = _d_gradient(gan, numbers, at, batch, i, d_key, lazy)
        discriminator, norm = _descend(gan, numbers, "discriminator", discriminator, grads)
        params = _clip_weights(discriminator.params, numbers["weight_clip"])
        discriminator = discriminator.replace(params=params, variables=variables)
        d_metrics["d_grad_norm"] = norm
        aux = _carry(gan, numbers, aux, d_metrics)
    at = ahead or state
    if gan.update_rule == "alternating":
        at = state.replace(discriminator=discriminator, aux=aux)
    grads, variables, g_metrics = _g_gradient(gan, numbers, at, batch, key)
    generator, g_metrics["g_grad_norm"] = _descend(
        gan, numbers, "generator", state.generator, grads
    )
    generator = generator.replace(variables=variables)
    metrics = d_metrics | g_metrics
    if gan.adaptive:
        metrics["ada_probability"] = aux["ada"]
    state = state.replace(
        step=state.step + 1,
        generator=generator,
        discriminator=discriminator,
        average=_move_average(gan, state.average, generator, numbers["ema_half_life"]),
        aux=aux,
    )
    return state, metrics


def gradients(gan: Gan, state: GanState, batch: Batch, lazy: bool = True) -> tuple[Params, Params]:
    """What the generator and the discriminator each descend, both at the same state.

    The game's vector field is their negative (Mescheder et al. 2018, equation 2).

    Args:
      gan, state, batch, lazy: as of `update`, whose first batch is D's.
    Returns:
      Gradients in the structure of the generator's and of the discriminator's parameters.
    """
    numbers = numbers_now(gan, state)
    key, *d_keys = jax.random.split(jax.random.fold_in(state.key, state.step), gan.d_steps + 1)
    d_grads, _, _ = _d_gradient(gan, numbers, state, batch, 0, d_keys[0], lazy)
    g_grads, _, _ = _g_gradient(gan, numbers, state, batch, key)
    return g_grads, d_grads


def numbers_now(gan: Gan, state: GanState) -> dict[str, Any]:
    """`hyper_parameters` as a step has them: where their schedules have come to."""
    progress = state.step * (gan.batch_size / jnp.maximum(state.hparams["decay_images"], 1))
    last = state.hparams["end"]
    return scheduled({name: state.hparams[name] for name in last}, last, progress)


def updates(
    gan: Gan, state: GanState, read: Callable[[jax.Array], Batch], num: int | jax.Array
) -> tuple[GanState, dict[str, jax.Array]]:
    """Many steps as one loop of the compiled program; a step's bits do not depend on how many.

    Args:
      gan: static.
      state: of one member.
      read: the batch of the loop's i-th step.
      num: how many steps.
    Returns:
      The last state, and the metrics of the last step: 0 for penalties that it has not carried.
    """

    def step(i: jax.Array, carry: tuple) -> tuple[GanState, dict[str, jax.Array]]:
        state, batch = carry[0], read(i)
        if gan.lazy_every == 1:
            return update(gan, state, batch)
        return jax.lax.cond(
            (state.step + 1) % gan.lazy_every == 0,
            lambda: update(gan, state, batch),
            lambda: without_penalties(state, batch),
        )

    def without_penalties(state: GanState, batch: Batch) -> tuple[GanState, dict[str, jax.Array]]:
        state, metrics = update(gan, state, batch, lazy=False)
        return state, nothing | metrics

    shapes = jax.eval_shape(lambda: update(gan, state, read(jnp.int32(0)))[1])
    nothing = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    return jax.lax.fori_loop(0, num, step, (state, nothing))


def loops_gain(state: GanState) -> bool:
    """Whether micro-batches, and steps, are run in loops of the compiled program.

    XLA runs convolutions inside a loop single-threaded and naively on a CPU.
    """
    convolves = _convolves((state.generator.params, state.discriminator.params))
    return not convolves or jax.default_backend() != "cpu"


def discriminator_loss(
    gan: Gan,
    numbers: dict[str, Any],
    lazy: bool,
    generator: Player,
    aux: dict[str, Any],
    params: Params,
    variables: Params,
    examples: Examples,
) -> tuple[jax.Array, tuple[Params, dict[str, jax.Array]]]:
    """What D descends on one micro-batch: (loss, (D's new variables, metrics)).

    Real and fake images pass D apart, so that each batch has its own batch statistics.

    Args:
      gan, lazy: static, as of `update`.
      numbers: as of `hyper_parameters`, those of this step.
      generator: which makes the fake images.
      aux: what is carried on beside the players: LeCam's averages, ADA's probability.
      params: D's, by which `jax.grad` differentiates.
      variables: D's others, as batch statistics.
      examples: a micro-batch of B: real images [B, ...], latents, labels and keys.
    """
    fake, _ = _generate(gan, generator.params, generator.variables, examples)
    real = pack(examples.real, gan.packing)
    fake = pack(fake, gan.packing)
    real_keys, fake_keys, penalty_keys = _packed_keys(gan, examples)
    probability = _probability(gan, numbers, aux)
    look = partial(_look, gan, probability, examples.labels, params)
    on_real, after_real = look(variables, real_keys, real)
    on_fake, after_fake = look(after_real, fake_keys, fake)
    penalties = gan.penalties if lazy else ()
    squares = partial(_logits_and_squares, gan, probability, examples.labels, params)
    real_squares = fake_squares = None
    if "r1" in penalties:
        logits, real_squares = squares(variables, real_keys, real)
        on_real = on_real._replace(logits=logits)
    if "r2" in penalties:
        logits, fake_squares = squares(after_real, fake_keys, fake)
        on_fake = on_fake._replace(logits=logits)
    d_losses, _ = LOSSES[gan.loss](on_real.logits, on_fake.logits)
    loss = d_losses.mean()
    real_accuracy, fake_accuracy = jnp.mean(on_real.logits > 0), jnp.mean(on_fake.logits < 0)
    metrics = {
        "d_loss": loss,
        "d_accuracy": (real_accuracy + fake_accuracy) / 2,
        "d_real_logit": on_real.logits.mean(),
        "d_fake_logit": on_fake.logits.mean(),
    }
    if gan.adaptive:
        metrics["d_real_sign"] = jnp.sign(on_real.logits).mean()
    if on_real.class_logits is not None:
        metrics["d_class_loss"] = _class_loss(on_real, examples) + _class_loss(on_fake, examples)
        loss += metrics["d_class_loss"]
    seen = Seen(
        real,
        fake,
        on_real.logits,
        on_fake.logits,
        real_squares,
        fake_squares,
        lambda images: look(variables, real_keys, images)[0].logits,
        lambda images: look(after_real, fake_keys, images)[0].logits,
        penalty_keys,
        aux.get("lecam", {}),
    )
    for name in penalties:
        penalty = PENALTIES[name](seen).mean()
        loss += gan.lazy_every * numbers["penalties"][name] * penalty
        metrics[name] = penalty
    return loss, (after_fake, metrics)


def generator_loss(
    gan: Gan,
    numbers: dict[str, Any],
    discriminator: Player,
    aux: dict[str, Any],
    params: Params,
    variables: Params,
    examples: Examples,
) -> tuple[jax.Array, tuple[Params, dict[str, jax.Array]]]:
    """What G descends on one micro-batch: (loss, (G's new variables, metrics)).

    D's variables stay as they are: they change in its own updates only.

    Args:
      params, variables: G's; the others are as of `discriminator_loss`.
    """
    fake, new_variables = _generate(gan, params, variables, examples)
    real_keys, fake_keys, _ = _packed_keys(gan, examples)
    probability = _probability(gan, numbers, aux)
    look = partial(_look, gan, probability, examples.labels, discriminator.params)
    on_real, d_variables = look(
        discriminator.variables, real_keys, pack(examples.real, gan.packing)
    )
    on_fake, _ = look(d_variables, fake_keys, pack(fake, gan.packing))
    _, g_losses = LOSSES[gan.loss](on_real.logits, on_fake.logits)
    loss = g_losses.mean()
    metrics = {"g_loss": loss}
    if on_fake.class_logits is not None:
        metrics["g_class_loss"] = _class_loss(on_fake, examples)
        loss += metrics["g_class_loss"]
    return loss, (new_variables, metrics)


def pack(examples: jax.Array, packing: int) -> jax.Array:
    """Every `packing` examples one after the other as one of so many times the channels.

    [B, ..., C] becomes [B // packing, ..., packing * C].
    Source: Lin et al. 2018, section 3 (PacGAN).
    """
    groups = examples.reshape(-1, packing, *examples.shape[1:])
    groups = jnp.moveaxis(groups, 1, -2)
    return groups.reshape(*groups.shape[:-2], -1)


def unpack(packed: jax.Array, packing: int) -> jax.Array:
    """The inverse of `pack`."""
    groups = packed.reshape(*packed.shape[:-1], packing, -1)
    groups = jnp.moveaxis(groups, -2, 1)
    return groups.reshape(-1, *groups.shape[2:])


def draw_latents(gan: Gan, key: jax.Array, num: int, truncation: float | None = None) -> jax.Array:
    """z ~ N(0, I): [num, latent_dim].

    Args:
      gan: static.
      key: a PRNG key.
      num: how many.
      truncation: numbers beyond it, on either side, are drawn anew: less variety, and samples
        nearer to the most likely ones (Brock et al. 2019, section 3.1).
    """
    shape = (num, gan.latent_dim)
    if truncation is None:
        return jax.random.normal(key, shape)
    return jax.random.truncated_normal(key, -truncation, truncation, shape)


def class_rows(gan: Gan, rows: int, columns: int) -> jax.Array | None:
    """Labels int32 [rows * columns] of a picture, a class a row; None where none are given."""
    if not gan.num_classes:
        return None
    return jnp.repeat(jnp.arange(rows) % gan.num_classes, columns)


def sample(
    gan: Gan, network: Network | Player, latents: jax.Array, labels: jax.Array | None = None
) -> jax.Array:
    """Examples [B, *shape] float32 of latents [B, latent_dim], with running batch statistics.

    Args:
      gan: static.
      network: `state.average`, or `state.generator`.
      latents: from `draw_latents`.
      labels: int32 [B], where the networks are given labels.
    """
    variables = {"params": network.params, **network.variables}
    return cast(jax.Array, gan.generator.apply(variables, latents, labels, train=False))


@jax.jit(static_argnums=0)
def standing_statistics(
    gan: Gan, network: Network, key: jax.Array, truncation: float | None = None
) -> Network:
    """A generator whose batch statistics are the means over batches of its own samples.

    An average's running statistics are averages of other generators'. Labels are drawn uniformly.

    Args:
      gan: static; without `standing_batches` the network stays as it is.
      network: `state.average`.
      key: a PRNG key.
      truncation: of the latents, as in `draw_latents`.
    Source: Brock et al. 2019, appendix C.1.
    """
    if not gan.standing_batches:
        return network
    empty = jax.tree.map(jnp.zeros_like, network.variables["batch_stats"])
    variables = {"params": network.params, **network.variables, "batch_stats": empty}
    total = empty
    for i in range(gan.standing_batches):
        latent_key, label_key = jax.random.split(jax.random.fold_in(key, i))
        latents = devices.split(draw_latents(gan, latent_key, gan.batch_size, truncation))
        labels = None
        if gan.num_classes:
            labels = jax.random.randint(label_key, (gan.batch_size,), 0, gan.num_classes)
        _, moved = gan.generator.apply(
            variables, latents, labels, train=True, mutable=["batch_stats"]
        )
        # From zeros, a running statistic becomes (1 - MOMENTUM) of the batch's.
        total = jax.tree.map(lambda x, y: x + y / (1 - MOMENTUM), total, moved["batch_stats"])
    means = jax.tree.map(lambda x: x / gan.standing_batches, total)
    return network.replace(variables={**network.variables, "batch_stats": means})


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
        optimizer = _optimizer(getattr(gan, f"{name}_optimizer"), hparams[name])
        opt_state = optimizer.init(network.params)
        players[name] = Player(network.params, network.variables, opt_state)
    aux: dict[str, Any] = {}
    if "lecam" in gan.penalties:
        aux["lecam"] = {"real": jnp.float32(0), "fake": jnp.float32(0)}
    if gan.adaptive:
        aux["ada"] = jnp.float32(0)
    return GanState(
        step=jnp.int32(0), key=key, average=generator, aux=aux, hparams=hparams, **players
    )


def _generate(
    gan: Gan, params: Params, variables: Params, examples: Examples
) -> tuple[jax.Array, Params]:
    """Fake examples in training, and G's variables after it."""
    fake, new_variables = gan.generator.apply(
        {"params": params, **variables},
        examples.latents,
        examples.labels,
        train=True,
        mutable=list(variables),
    )
    return fake, new_variables


class _Look(NamedTuple):
    """What D says: logits [B], and class logits [B, num_classes] of an auxiliary classifier."""

    logits: jax.Array
    class_logits: jax.Array | None


def _look(
    gan: Gan,
    probability: jax.Array,
    labels: jax.Array | None,
    params: Params,
    variables: Params,
    keys: jax.Array,
    packed: jax.Array,
) -> tuple[_Look, Params]:
    """What D says in training of (packed) examples [B, ...], and its variables after it."""
    packed = _augmented(gan, probability, keys, packed)
    return _judge(gan, labels, params, variables, packed)


def _augmented(gan: Gan, probability: jax.Array, keys: jax.Array, packed: jax.Array) -> jax.Array:
    """(Packed) examples [B, ...] as D's augmentations show them to it."""
    if not gan.d_augmentations:
        return packed
    keys = jax.vmap(lambda key: jax.random.split(key, gan.packing))(keys).reshape(-1)
    images = unpack(packed, gan.packing)
    return pack(d_augment(gan.d_augmentations, keys, images, probability), gan.packing)


def _judge(
    gan: Gan, labels: jax.Array | None, params: Params, variables: Params, packed: jax.Array
) -> tuple[_Look, Params]:
    """`_look` of what is augmented."""
    logits, moved = gan.discriminator.apply(
        {"params": params, **variables},
        packed,
        labels,
        train=True,
        mutable=[*variables, "auxiliary"],
    )
    new_variables: dict[str, Any] = dict(moved)
    auxiliary = new_variables.pop("auxiliary", {})
    return _Look(cast(jax.Array, logits), auxiliary.get("class_logits")), new_variables


def _logits_and_squares(
    gan: Gan,
    probability: jax.Array,
    labels: jax.Array | None,
    params: Params,
    variables: Params,
    keys: jax.Array,
    packed: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Of `_look` the logits [B], and the squared norms of their gradients [B].

    In one backward pass where D has convolutions, and so differentiates in reverse mode alone, and
    is linear between kinks.
    """

    def judge(params: Params, examples: jax.Array) -> jax.Array:
        return _judge(gan, labels, params, variables, examples)[0].logits

    augmented, pull = jax.vjp(partial(_augmented, gan, probability, keys), packed)
    try:
        if not _convolves(params):
            raise NotPiecewiseLinear
        logits, gradients = logits_and_gradients(judge, params, augmented)
    except NotPiecewiseLinear:
        logits, pull_logits = jax.vjp(partial(judge, params), augmented)
        (gradients,) = pull_logits(jnp.ones_like(logits))
    return logits, squared(pull(gradients)[0])


def _class_loss(look: _Look, examples: Examples) -> jax.Array:
    """The cross entropy of an auxiliary classifier (Odena et al. 2017, equation 3)."""
    return optax.softmax_cross_entropy_with_integer_labels(
        look.class_logits, examples.labels
    ).mean()


def _convolves(params: Params) -> bool:
    """Whether there are convolutions among networks' layers."""
    return any(jnp.ndim(kernel) == 4 for kernel in jax.tree.leaves(params))


def _packed_keys(gan: Gan, examples: Examples) -> jax.Array:
    """Of each pack the keys of its first example: [3, packs]."""
    return examples.keys[:: gan.packing].T


def _probability(gan: Gan, numbers: dict[str, Any], aux: dict[str, Any]) -> jax.Array:
    """That of what D's augmentations do."""
    return aux["ada"] if gan.adaptive else numbers["d_augment_probability"]


def _carry(
    gan: Gan, numbers: dict[str, Any], aux: dict[str, Any], metrics: dict[str, jax.Array]
) -> dict[str, Any]:
    """What penalties and augmentations carry on from an update of D."""
    aux = dict(aux)
    if "lecam" in aux:
        logits = metrics["d_real_logit"], metrics["d_fake_logit"]
        aux["lecam"] = lecam_averages(aux["lecam"], *logits)
    if gan.adaptive:
        sign, moved = metrics["d_real_sign"], gan.batch_size / numbers["ada_images"]
        aux["ada"] = adapt(aux["ada"], sign, numbers["ada_target"], moved)
    return aux


def _clip_weights(params: Params, limit: jax.Array) -> Params:
    """Parameters in [-limit, limit] (0: any), as Arjovsky et al. 2017 bound D (algorithm 1)."""
    limit = jnp.where(limit > 0, limit, jnp.inf)
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -limit, limit), params)


def _optimizer(name: str, numbers: dict[str, jax.Array]) -> optax.GradientTransformation:
    return OPTIMIZERS[name](**{k: x for k, x in numbers.items() if k in optimizer_fields(name)})


def _prepare(gan: Gan, key: jax.Array, batch: Batch, i: int) -> Examples:
    """What the i-th update of a step looks at: [accumulate, micro-batch, ...] each.

    What is random is drawn for the whole batch, so that it is the same however it is split.
    """
    images = batch["images"][i]
    latent_key, *keys = jax.random.split(key, 1 + len(gan.augmentations))
    look_keys = jax.random.split(jax.random.fold_in(key, LOOK_KEY), (gan.batch_size, 3))
    real = to_float(images)
    for key, (name, strength) in zip(keys, gan.augmentations):
        flat = real.reshape(gan.batch_size, *images.shape[2:])
        real = AUGMENTATIONS[name](key, flat, strength).reshape(images.shape)  # type: ignore[arg-type]
    latents = draw_latents(gan, latent_key, gan.batch_size)
    examples = Examples(
        real,
        batch["labels"][i] if gan.num_classes else None,
        latents.reshape(*images.shape[:2], gan.latent_dim),
        look_keys.reshape(*images.shape[:2], 3),
    )
    return devices.split(examples, axis=1)


def _d_gradient(
    gan: Gan,
    numbers: dict[str, Any],
    at: GanState,
    batch: Batch,
    i: int,
    key: jax.Array,
    lazy: bool,
) -> tuple[Params, Params, dict[str, jax.Array]]:
    """What D descends on the i-th batch, its variables after it, and metrics."""
    loss = partial(discriminator_loss, gan, numbers, lazy, at.generator, at.aux)
    examples = _prepare(gan, key, batch, i)
    return _gradient(loss, at.discriminator, examples, rolled=loops_gain(at))


def _g_gradient(
    gan: Gan, numbers: dict[str, Any], at: GanState, batch: Batch, key: jax.Array
) -> tuple[Params, Params, dict[str, jax.Array]]:
    """What G descends on the last batch, its variables after it, and metrics."""
    loss = partial(generator_loss, gan, numbers, at.discriminator, at.aux)
    examples = _prepare(gan, key, batch, gan.d_steps)
    return _gradient(loss, at.generator, examples, rolled=loops_gain(at))


def _gradient(
    loss: Callable, player: Player, examples: Examples, rolled: bool
) -> tuple[Params, Params, dict[str, jax.Array]]:
    """The mean gradient over micro-batches, the player's variables after them, mean metrics."""

    def gradient(variables: Params, micro_batch: Examples) -> tuple[Params, Any]:
        grads, (variables, metrics) = jax.grad(loss, has_aux=True)(
            player.params, variables, micro_batch
        )
        return variables, (grads, metrics)

    def add_gradient(carried: Any, micro_batch: Examples) -> tuple[Any, None]:
        variables, total = carried
        # Unrolled, nothing but this would keep XLA from running all micro-batches at once, in k
        # times the memory: the next one waits for the sum so far.
        nothing = sum(0 * jnp.ravel(leaf)[0] for leaf in jax.tree.leaves(total))
        micro_batch = micro_batch._replace(
            real=micro_batch.real + nothing, latents=micro_batch.latents + nothing
        )
        variables, more = gradient(variables, micro_batch)
        return (variables, jax.tree.map(jnp.add, total, more)), None

    num, first = len(examples.real), jax.tree.map(lambda x: x[0], examples)
    if rolled and num > 1:
        _, shapes = jax.eval_shape(gradient, player.variables, first)
        nothing_yet = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carried, _ = jax.lax.scan(add_gradient, (player.variables, nothing_yet), examples)
    else:
        carried = gradient(player.variables, first)
        for i in range(1, num):
            carried, _ = add_gradient(carried, jax.tree.map(lambda x, i=i: x[i], examples))
    variables, total = carried
    grads, metrics = jax.tree.map(lambda x: x / num, total)
    return grads, variables, metrics


def _descend(
    gan: Gan, numbers: dict[str, Any], name: str, player: Player, grads: Params
) -> tuple[Player, jax.Array]:
    """One descent of one player by its own optimiser, and the gradient's norm."""
    grads, norm = clip_gradient(grads, numbers[name]["clip_norm"])
    optimizer = _optimizer(getattr(gan, f"{name}_optimizer"), numbers[name])
    updates, opt_state = optimizer.update(grads, player.opt_state, player.params)
    params = optax.apply_updates(player.params, updates)
    return player.replace(params=params, opt_state=opt_state), norm


def _move_average(gan: Gan, average: Network, generator: Player, half_life: jax.Array) -> Network:
    """The average after a step, its weight halved every `half_life` images (0: no memory)."""
    keep = 0.5 ** (gan.batch_size / half_life)
    return jax.tree.map(
        lambda old, new: new + keep * (old - new),
        average,
        Network(generator.params, generator.variables),
    )

"""`--describe`: what a config would train, in words and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

import data
import gan as gans

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def describe(config: ConfigDict, dataset: data.Dataset, gan: gans.Gan) -> str:
    """Both networks, the cost of a step as XLA counts it, and the recipe in words."""
    state = gans.init(gan, config, jax.random.key(config.seed))
    batch = gans.abstract_batch(gan)
    step = jax.jit(gans.update, static_argnums=(0, 3)).lower(gan, state, batch, True).compile()
    cost: Any = step.cost_analysis()
    memory: Any = step.memory_analysis()
    sections = [
        _words(config, gan, dataset),
        _table("Generator", state.generator),
        _table("Discriminator", state.discriminator),
        "A step: "
        f"{cost['flops'] / 1e9:,.3g} GFLOP, {cost['bytes accessed'] / 1e6:,.3g} MB moved, "
        f"{memory.temp_size_in_bytes / 1e6:,.3g} MB of working memory "
        f"(XLA, {jax.devices()[0].device_kind})",
    ]
    return "\n\n".join(sections)


def _words(config: ConfigDict, gan: gans.Gan, dataset: data.Dataset) -> str:
    shape = " x ".join(str(size) for size in dataset.images.shape[1:])
    classes = f", {dataset.spec.num_classes} classes" if dataset.labels is not None else ""
    balanced = ", every class drawn equally often" if config.balanced else ""
    augmented = "".join(f", {name} {strength:g}" for name, strength in gan.augmentations)
    lines = [
        f"Recipe {config.recipe}" if config.recipe else "No recipe",
        f"Data: {config.dataset}, {len(dataset.images):,} of {shape}{classes}{balanced}{augmented}",
        f"Networks: {config.generator.name} from {gan.latent_dim} latents, "
        f"{config.discriminator.name}; {config.precision}",
        f"Loss: {gan.loss}",
    ]
    for name in gan.penalties:
        lazily = f", in every {gan.lazy_every}th step" if gan.lazy_every > 1 else ""
        lines.append(f"Penalty: {config.penalties[name]:g} x {name}{lazily}")
    for player in ("generator", "discriminator"):
        optimizer = config.optimizer[player]
        numbers = gans.hyper_parameters(gan, config)[player]
        settings = ", ".join(f"{name} {float(value):g}" for name, value in numbers.items())
        lines.append(f"Optimiser of the {player}: {optimizer.name}, {settings}")
    micro = f" in {gan.accumulate} micro-batches" if gan.accumulate > 1 else ""
    lines.append(
        f"A step: {gan.d_steps} of the discriminator, 1 of the generator, "
        f"{gan.batch_size} images each{micro}; {config.num_steps:,} steps"
    )
    if config.ema_half_life:
        lines.append(f"Pictures by the average of half-life {config.ema_half_life:,.0f} images")
    return "\n".join(lines)


def _table(title: str, network: Any) -> str:
    """Every parameter with its shape and size, then the total."""
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(network.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rows.append(f"  {name:32} {' x '.join(map(str, leaf.shape)):>20} {leaf.size:>12,}")
    total = sum(leaf.size for leaf in jax.tree.leaves(network.params))
    return "\n".join([f"{title}: {total:,} parameters", *rows])

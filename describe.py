"""`--describe`: what a config would train, in words and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

import data
import devices
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
        words(config, dataset.facts),
        _table("Generator", state.generator),
        _table("Discriminator", state.discriminator),
        "A step: "
        f"{cost['flops'] / 1e9:,.3g} GFLOP, {cost['bytes accessed'] / 1e6:,.3g} MB moved, "
        f"{memory.temp_size_in_bytes / 1e6:,.3g} MB of working memory "
        f"(XLA, {jax.devices()[0].device_kind})",
    ]
    num = devices.make_mesh(config.devices).size
    if num > 1 and config.population == 1:
        split, whole = (devices.bytes_on_each(state, num, shard) for shard in (True, False))
        here, other = (split, whole) if config.shard_state else (whole, split)
        sections.append(
            f"{num} devices: {here / 1e6:,.3g} MB of state on each "
            f"({other / 1e6:,.3g} with shard_state={not config.shard_state})"
        )
    return "\n\n".join(sections)


def words(config: ConfigDict, facts: dict[str, Any]) -> str:
    """The recipe, a line a part of it; no data is read, and nothing compiled.

    Args:
      config: see configs/default.py.
      facts: of the data set, `data.Dataset.facts`; what is missing there is not said.
    """
    shape, num_classes = facts.get("shape", ()), facts.get("num_classes")
    gan = gans.make_gan(config, data.Spec(tuple(shape), num_classes))
    size = f", {facts['examples']:,} of {' x '.join(map(str, shape))}" if facts else ""
    classes = f", {num_classes} classes" if num_classes else ""
    balanced = ", every class drawn equally often" if config.balanced else ""
    augmented = "".join(f", {name} {strength:g}" for name, strength in gan.augmentations)
    lines = [
        f"Recipe {config.recipe}" if config.recipe else "No recipe",
        f"Data: {config.dataset}{size}{classes}{balanced}{augmented}",
        f"Networks: {config.generator.name} from {gan.latent_dim} latents"
        f"{' and labels' if config.conditional else ''}, {config.discriminator.name}"
        f"{f' of packs of {gan.packing}' if gan.packing > 1 else ''}; {config.precision}",
        f"Loss: {gan.loss}",
    ]
    hparams = gans.hyper_parameters(gan, config)
    last = hparams["end"]
    for name, weight in hparams["penalties"].items():
        lazily = f", in every {gan.lazy_every}th step" if gan.lazy_every > 1 else ""
        lines.append(f"Penalty: {_number(weight, last['penalties'][name])} x {name}{lazily}")
    if config.weight_clip:
        lines.append(f"D's parameters are kept within +-{config.weight_clip:g}")
    if gan.d_augmentations:
        names = ", ".join(f"{name} {share:g}" for name, share in gan.d_augmentations)
        probability = _number(hparams["d_augment_probability"], last["d_augment_probability"])
        if gan.adaptive:
            probability = f"what keeps D's mean sign on real images at {config.ada_target:g}"
        lines.append(f"D sees augmented images: {names}; probability {probability}")
    for player in ("generator", "discriminator"):
        optimizer = config.optimizer[player]
        settings = ", ".join(
            f"{name} {_number(value, last[player][name])}"
            for name, value in hparams[player].items()
            if value or name != "clip_norm"
        )
        lines.append(f"Optimiser of the {player}: {optimizer.name}, {settings}")
    micro = f" in {gan.accumulate} micro-batches" if gan.accumulate > 1 else ""
    lines.append(
        f"A step: {gan.d_steps} of the discriminator, 1 of the generator, "
        f"{gan.batch_size} images each{micro}, {gan.update_rule}; {config.num_steps:,} steps"
    )
    if last["ema_half_life"]:
        half_life = _number(hparams["ema_half_life"], last["ema_half_life"])
        lines.append(f"Pictures by the average of half-life {half_life} images")
    if config.decay_images:
        lines.append(f"Numbers with an arrow move along a cosine in {config.decay_images:,} images")
    return "\n".join(lines)


def _number(first: Any, last: Any) -> str:
    """A hyper-parameter, and where its schedule ends."""
    return " -> ".join(f"{float(x):,g}" for x in (first, last)[: 1 + bool(first != last)])


def _table(title: str, network: Any) -> str:
    """Every parameter with its shape and size, then the total."""
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(network.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rows.append(f"  {name:32} {' x '.join(map(str, leaf.shape)):>20} {leaf.size:>12,}")
    total = sum(leaf.size for leaf in jax.tree.leaves(network.params))
    return "\n".join([f"{title}: {total:,} parameters", *rows])

"""What a config may say. Whatever may not be is an `app.UsageError`: one line, before any work."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import app

import data
import gan as gans
import scores
from augment import AUGMENTATIONS
from configs import default
from losses import LOSSES
from models import DISCRIMINATORS, GENERATORS, network_fields
from penalties import PENALTIES

if TYPE_CHECKING:
    from ml_collections import ConfigDict

SMALLEST, LARGEST = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
PLAYERS = {"generator": GENERATORS, "discriminator": DISCRIMINATORS}


def check_values(config: ConfigDict) -> None:
    """Every name exists, and every number is possible by itself.

    Raises:
      app.UsageError: what is not, and what would be right.
    """
    for field in ("batch_size", "latent_dim", "d_steps", "accumulate", "lazy_every"):
        _require(config[field] >= 1, f"{field} must be at least 1, not {config[field]}")
    for field in (
        "seed",
        "num_steps",
        "log_every",
        "sample_every",
        "eval_every",
        "checkpoint_every",
    ):
        _require(config[field] >= 0, f"{field} must be 0 or more, not {config[field]}")
    _require(config.seed < 2**32, f"seed must be less than 2**32, not {config.seed}")
    _require(
        config.batch_size % config.accumulate == 0,
        f"accumulate={config.accumulate} does not divide batch_size={config.batch_size}",
    )
    _check_strength("ema_half_life", config.ema_half_life)
    methods: dict[str, dict] = {"penalties": PENALTIES, "augment": AUGMENTATIONS}
    for kind, entries in methods.items():
        for name, strength in config[kind].items():
            _choose(entries, name, kind)
            _check_strength(f"{kind}.{name}", strength)
    _require(config.augment.flip <= 1, f"augment.flip is at most 1, not {config.augment.flip}")
    _choose(LOSSES, config.loss, "loss")
    _choose(gans.PRECISIONS, config.precision, "precision")
    for player, choices in PLAYERS.items():
        network = choices[_choose(choices, config[player].name, f"{player}.name")]
        for field, usual in network_fields(network).items():
            size = config[player][field]
            is_size = type(usual) is int and usual >= 1
            _require(
                size is None or not is_size or size >= 1,
                f"{player}.{field} must be at least 1, not {size}",
            )
        optimizer, place = config.optimizer[player], f"optimizer.{player}"
        _choose(gans.OPTIMIZERS, optimizer.name, f"{place}.name")
        _require(
            SMALLEST <= optimizer.learning_rate <= LARGEST,
            f"{place}.learning_rate must be more than 0, in float32 too, "
            f"not {optimizer.learning_rate}",
        )
        for beta in ("b1", "b2"):
            value = optimizer[beta]
            _require(0 <= value < 1, f"{place}.{beta} must be in [0, 1), not {value}")


def check_use(config: ConfigDict, page: ConfigDict, overrides: list[str]) -> None:
    """Every field that the command line or the config file has set does something.

    Args:
      config: as it will be trained.
      page: as the config file has it; what an override made useless there is no mistake.
      overrides: the fields that the command line has set.

    Raises:
      app.UsageError: one does not, and why; or a value in the page is impossible.
    """
    check_values(page)
    useless_there, usual = unused_fields(page), default.get_config()
    for field, reason in unused_fields(config).items():
        _require(field not in overrides, f"--config.{field} does nothing here: {reason}")
        changed, unchanged = (operator.attrgetter(field)(c) for c in (page, usual))
        _require(
            field == "recipe" or field not in useless_there or changed == unchanged,
            f"{field}={changed} in the config file does nothing: {reason}",
        )


def check_fit(config: ConfigDict, gan: gans.Gan, dataset: data.Dataset) -> None:
    """Networks, data, penalties, augmentations and target fit each other.

    Raises:
      app.UsageError: what does not, and what would.
    """
    name, size = config.dataset, len(dataset.images)
    _require(
        config.batch_size <= size,
        f"batch_size={config.batch_size} is larger than {name}: {size} examples",
    )
    _require(not config.balanced or dataset.labels is not None, f"balanced: {name} has no labels")
    if gan.augmentations:
        _require(dataset.spec.kind == "image", f"augment is for images: {name} has points")
        height = dataset.spec.shape[0]
        _require(
            config.augment.crop < height,
            f"augment.crop={config.augment.crop} must be less than the images' {height} pixels",
        )
    try:
        state = jax.eval_shape(lambda: gans.init(gan, config, jax.random.key(0)))
    except (ValueError, OverflowError) as error:
        raise app.UsageError(str(error).partition("\n")[0]) from error
    latents = 4 * gan.batch_size * gan.latent_dim
    needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) + latents
    _require(
        needed <= memory(),
        f"these networks and latents need {needed / 2**30:,.0f} GiB, and there are "
        f"{memory() / 2**30:,.0f}: smaller widths, latent_dim or resolution",
    )
    _require(
        not gan.penalties or "batch_stats" not in state.discriminator.variables,
        f"the penalty {' and '.join(gan.penalties)} is of one image's logit, and batch "
        "normalisation mixes images: --config.discriminator.norm=none",
    )


def check_metrics(config: ConfigDict, gan: gans.Gan, judge: scores.Judge) -> None:
    """The metrics that a config names are logged, and the scores can be had.

    Raises:
      app.UsageError: what is never logged, and what is.
    """
    trained = [f"train/{name}" for name in gans.metric_names(gan, config)]
    scored = scores.metric_names(judge)
    for field, metric, known in (
        ("target.metric", config.target.metric, trained + scored),
        ("best_metric", config.best_metric, scored),
    ):
        if not metric:
            continue
        _require(
            metric in known,
            f"{field}={metric!r} is never logged: there are {', '.join(known)}",
        )
        every = "eval_every" if metric in scored else "log_every"
        _require(config[every], f"{field}={metric!r} is never logged: {every} is 0")
    _require(
        not config.target.metric or math.isfinite(config.target.value),
        f"target.value must be a number, not {config.target.value}",
    )


def unused_fields(config: ConfigDict) -> dict[str, str]:
    """Fields that do nothing beside what else the config chooses, and why."""
    unused = {"recipe": "choose one with --config=FILE:RECIPE"}
    for player, choices in PLAYERS.items():
        name = config[player].name
        own = network_fields(choices[name])
        for field in set(config[player]) - {"name"} - set(own):
            unused[f"{player}.{field}"] = f"{name} has {', '.join(sorted(own))}"
        optimizer = config.optimizer[player]
        for field in set(optimizer) - {"name"} - gans.optimizer_fields(optimizer.name):
            unused[f"optimizer.{player}.{field}"] = f"{optimizer.name} has no such number"
    if not any(config.penalties.values()):
        unused["lazy_every"] = "no penalty is on"
    if not config.eval_every:
        for field in ("eval_samples", "eval_features", "best_metric"):
            unused[field] = "eval_every is 0"
    if "inception" not in (config.eval_features or ""):
        unused["inception_weights"] = "eval_features names no inception network"
    if not config.target.metric:
        unused["target.value"] = "target.metric is not set"
    if config.dataset in data.TOYS:
        unused["resolution"] = f"{config.dataset} has points"
    if config.dataset in (*data.TOYS, "digits") or config.dataset.startswith("folder:"):
        unused["data_dir"] = f"{config.dataset} is not read from there"
    return unused


def memory() -> int:
    """Bytes of memory of the device that trains."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or data.host_memory()


def _check_strength(field: str, strength: float) -> None:
    _require(
        0 <= strength <= LARGEST, f"{field} must be 0 (off) or a positive float32, not {strength}"
    )


def _choose(choices: dict[str, Any], name: str, field: str) -> str:
    _require(name in choices, f"{field}={name!r} does not exist: choose from {', '.join(choices)}")
    return name


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise app.UsageError(message)

"""What a config may say. Whatever may not be is an `app.UsageError`: one line, before any work."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import app

import cli
import data
import devices
import gan as gans
import scores
from augment import AUGMENTATIONS, D_AUGMENTATIONS
from configs import default
from losses import LOSSES, RELATIVISTIC, SHIFTED
from models import DISCRIMINATORS, GENERATORS, network_fields
from optimizers import OPTIMIZERS, optimizer_fields
from penalties import GRADIENT_NORMS, PENALTIES

if TYPE_CHECKING:
    from ml_collections import ConfigDict

SMALLEST, LARGEST = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
# What is written out in the compiled program, turn by turn, and more would compile for hours; or
# what is made in memory, or on disk, before the first step.
MOST_UNROLLED, MOST = 100, 10_000
PLAYERS = {"generator": GENERATORS, "discriminator": DISCRIMINATORS}


def check_values(config: ConfigDict) -> None:
    """Every name exists, and every number is possible by itself.

    Raises:
      app.UsageError: what is not, and what would be right.
    """
    for field, of_type in cli.field_types(config).items():
        value = operator.attrgetter(field)(config)
        _require(
            of_type is not int or value is None or abs(value) < 2**63,
            f"{field} must be an integer of 64 bits, not {value}",
        )
    for field in (
        "population",
        "batch_size",
        "latent_dim",
        "d_steps",
        "accumulate",
        "lazy_every",
        "packing",
        "ada_images",
        "steps_per_call",
        "checkpoints_kept",
        "max_rollbacks",
        "devices",
        "resolution",
    ):
        value = config[field]
        _require(value is None or value >= 1, f"{field} must be at least 1, not {value}")
    for field in (
        "seed",
        "num_steps",
        "log_every",
        "sample_every",
        "eval_every",
        "checkpoint_every",
        "decay_images",
        "standing_statistics",
    ):
        _require(config[field] >= 0, f"{field} must be 0 or more, not {config[field]}")
    for field, most in (
        ("num_steps", 2**31 - 1),
        ("d_steps", MOST_UNROLLED),
        ("standing_statistics", MOST_UNROLLED),
        ("steps_per_call", MOST),
        ("population", MOST),
    ):
        value = config[field]
        _require(value is None or value <= most, f"{field} is at most {most:,}, not {value}")
    workers = config.stream_workers
    _require(workers is None or workers >= 0, f"stream_workers must be 0 or more, not {workers}")
    _require(
        not config.stream or not data.is_computed(config.dataset),
        f"stream=True: {config.dataset} is made in memory, there is nothing to stream",
    )
    _require(config.dataset != "folder:", "dataset=folder: names no folder: folder:PATH")
    _choose({"stop": None, "rollback": None}, config.on_nan, "on_nan")
    _choose(dict.fromkeys(gans.UPDATE_RULES), config.update_rule, "update_rule")
    _require(
        config.update_rule != "extragradient" or config.d_steps == 1,
        f"update_rule=extragradient is for one update each, and d_steps={config.d_steps}",
    )
    _require(
        config.on_nan == "stop" or config.checkpoint_every,
        "on_nan=rollback goes back to a checkpoint, and checkpoint_every is 0",
    )
    last_seed = config.seed + config.population - 1
    _require(last_seed < 2**32, f"seed must be less than 2**32, not {last_seed}")
    _require(
        config.population == 1 or not config.target.metric,
        "target.metric ends one run: not with a population",
    )
    _require(
        config.batch_size % config.accumulate == 0,
        f"accumulate={config.accumulate} does not divide batch_size={config.batch_size}",
    )
    together = config.batch_size // config.accumulate
    _require(
        together % config.packing == 0,
        f"packing={config.packing} does not divide the {together} examples of a (micro-)batch",
    )
    group, judged = config.discriminator.minibatch_stddev or 0, together // config.packing
    _require(group >= 0, f"discriminator.minibatch_stddev must be 0 (off) or more, not {group}")
    _require(
        not group or judged % min(group, judged) == 0,
        f"discriminator.minibatch_stddev={group} does not divide the {judged} images or packs of a "
        "(micro-)batch",
    )
    methods: dict[str, dict] = {
        "penalties": PENALTIES,
        "augment": AUGMENTATIONS,
        "d_augment": D_AUGMENTATIONS,
    }
    strengths = {
        name: config[name]
        for name in (*gans.NUMBERS, "d_augment_probability_end", "ema_half_life_end")
    }
    for kind, entries in methods.items():
        for name, strength in config[kind].items():
            _choose(entries, name.removesuffix("_end"), kind)
            strengths[f"{kind}.{name}"] = strength
    for field, strength in strengths.items():
        _require(
            strength is None or 0 <= strength <= LARGEST,
            f"{field} must be 0 (off) or a positive float32, not {strength}",
        )
    for field in (
        "augment.flip",
        "ada_target",
        "d_augment_probability",
        "d_augment_probability_end",
    ):
        _check_share(field, operator.attrgetter(field)(config))
    for name, share in config.d_augment.items():
        _check_share(f"d_augment.{name}", share)
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
            _require(
                size is None or field not in ("depth", "blocks") or size <= MOST_UNROLLED,
                f"{player}.{field} is at most {MOST_UNROLLED}, not {size}",
            )
        optimizer, place = config.optimizer[player], f"optimizer.{player}"
        _choose(OPTIMIZERS, optimizer.name, f"{place}.name")
        for field in ("learning_rate", "learning_rate_end"):
            value = optimizer[field]
            _require(
                value is None or SMALLEST <= value <= LARGEST,
                f"{place}.{field} must be more than 0, in float32 too, not {value}",
            )
        for field in ("b1", "b2", "b2_end", "decay"):
            value = optimizer[field]
            _require(
                value is None or (0 <= value < 1 and np.float32(value) < 1),
                f"{place}.{field} must be in [0, 1), in float32 too, not {value}",
            )
        value = optimizer.momentum
        _require(
            -1 < value < 1 and abs(np.float32(value)) < 1,
            f"{place}.momentum must be in (-1, 1), in float32 too, not {value}",
        )
        value = optimizer.clip_norm
        _require(0 <= value <= LARGEST, f"{place}.clip_norm must be 0 (off) or more, not {value}")
    _check_game(config)


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


def check_labels(config: ConfigDict, dataset: data.Dataset) -> None:
    """Where labels are used there are some, and the networks take them.

    Raises:
      app.UsageError: there are none, or a network does not.
    """
    for field in ("balanced", "conditional"):
        _require(
            not config[field] or dataset.labels is not None,
            f"{field}: {config.dataset} has no labels",
        )
    for player in ("generator", "discriminator"):
        module = PLAYERS[player][config[player].name]
        _require(
            not config.conditional or "num_classes" in module.__dataclass_fields__,
            f"conditional: the {player} {config[player].name} takes no labels",
        )


def check_devices(config: ConfigDict) -> None:
    """The devices are there, and divide a (micro-)batch.

    Raises:
      app.UsageError: they are not, or do not, and which number does.
    """
    num = devices.make_mesh(config.devices).size
    judged = config.batch_size // config.accumulate // config.packing
    fewer = f": --config.devices={math.gcd(judged, num)} does" if jax.process_count() == 1 else ""
    _require(
        judged % num == 0,
        f"{num} devices do not divide the {judged} examples or packs of a (micro-)batch{fewer}",
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
    for field, used in (
        ("augment", gan.augmentations),
        ("d_augment", gan.d_augmentations),
        ("penalties.bcr", "bcr" in gan.penalties),
    ):
        _require(
            not used or dataset.spec.kind == "image", f"{field} is for images: {name} has points"
        )
    if gan.augmentations:
        height = dataset.spec.shape[0]
        _require(
            config.augment.crop < height,
            f"augment.crop={config.augment.crop} must be less than the images' {height} pixels",
        )
    try:
        state = gans.abstract_state(gan, config)
    except (ValueError, OverflowError) as error:
        raise app.UsageError(str(error).partition("\n")[0]) from error
    latents = 4 * gan.batch_size * gan.latent_dim
    num = devices.make_mesh(config.devices).size
    needed = devices.bytes_on_each(state, num, config.shard_state) + latents
    _require(
        needed <= data.memory(),
        f"these networks and latents need {needed / 2**30:,.0f} GiB, and there are "
        f"{data.memory() / 2**30:,.0f}: smaller widths, latent_dim or resolution",
    )
    step = math.prod(gans.batch_shape(gan)) * math.prod(dataset.spec.shape)
    step *= config.steps_per_call or 1
    _require(
        not dataset.streamed or step <= data.memory(),
        f"a call's images take {step / 2**30:,.0f} GiB, and there are "
        f"{data.memory() / 2**30:,.0f}: smaller batch_size or resolution",
    )
    of_gradients = [name for name in gan.penalties if name in GRADIENT_NORMS]
    _require(
        not of_gradients or "batch_stats" not in state.discriminator.variables,
        f"the penalty {' and '.join(of_gradients)} is of one image's logit, and batch "
        "normalisation mixes images: --config.discriminator.norm=none",
    )
    _require(
        not config.standing_statistics or "batch_stats" in state.generator.variables,
        f"standing_statistics: {config.generator.name} has no batch normalisation",
    )


def check_metrics(config: ConfigDict, gan: gans.Gan, judge: scores.Judge) -> None:
    """The metrics that a config names are logged, and the scores can be had.

    Raises:
      app.UsageError: what is never logged, and what is; or why there can be no scores.
    """
    try:
        if config.eval_every:
            scores.check(judge)
    except app.UsageError as error:
        raise app.UsageError(f"{error}: --config.eval_every=0 trains without") from error
    trained = [f"train/{name}" for name in gans.metric_names(gan, config)]
    scored = scores.metric_names(judge)
    for field, metric, known in (
        ("target.metric", config.target.metric, trained + scored),
        ("best_metric", config.best_metric, scored),
    ):
        if not metric or (field == "best_metric" and not config.eval_every):
            continue
        _require(
            metric in known,
            f"{field}={metric!r} is never logged: there are {', '.join(known)}",
        )
        every = "eval_every" if metric in scored else "log_every"
        _require(config[every], f"{field}={metric!r} is never logged: {every} is 0")
    _require(
        config.target.metric not in scored or config.eval_every <= config.num_steps,
        f"target.metric={config.target.metric!r} is never logged: eval_every is "
        f"{config.eval_every:,}, num_steps {config.num_steps:,}",
    )
    _require(
        not config.target.metric or math.isfinite(config.target.value),
        f"target.value must be a number, not {config.target.value}",
    )


def _check_game(config: ConfigDict) -> None:
    """Loss, penalties and constraints do not contradict each other."""
    loss = config.loss
    on = gans.penalties_on(config)
    norms = {name: GRADIENT_NORMS[name] for name in on if name in GRADIENT_NORMS}
    _require(
        len(set(norms.values())) < 2,
        "penalties contradict each other: "
        + ", ".join(f"{name} draws D's gradient to {norm}" for name, norm in norms.items()),
    )
    _require(
        "lecam" not in on or loss not in RELATIVISTIC,
        f"penalties.lecam is of the logits themselves, and loss={loss} of their differences alone",
    )
    fields = network_fields(DISCRIMINATORS[config.discriminator.name])
    norm = "norm" in fields and (config.discriminator.norm or fields["norm"])
    _require(
        loss != "wasserstein" or norms or "lecam" in on or config.weight_clip or norm == "spectral",
        "loss=wasserstein needs a bound on D: penalties.gp=10, weight_clip=0.01, or "
        "discriminator.norm=spectral",
    )
    _require(
        not config.ada_target or loss not in (*SHIFTED, "least_squares"),
        f"ada_target is of the logits' signs, which loss={loss} does not divide real from fake by",
    )
    _require(
        not config.ada_target or any(config.d_augment.values()),
        "ada_target controls augmentations, and no d_augment is on",
    )
    _require(
        not config.conditional or config.packing == 1,
        "packing puts examples of several labels together: not with conditional",
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
        own_numbers = {"name", "clip_norm"} | optimizer_fields(optimizer.name)
        for field in set(optimizer) - own_numbers - {f"{name}_end" for name in own_numbers}:
            unused[f"optimizer.{player}.{field}"] = f"{optimizer.name} has no such number"
        if not config.conditional:
            unused[f"{player}.condition"] = "conditional is False"
    ends = [field for field in cli.field_types(config) if field.endswith("_end")]
    if not config.decay_images:
        unused |= dict.fromkeys(ends, "decay_images is 0")
    elif all(operator.attrgetter(field)(config) is None for field in ends):
        unused["decay_images"] = "no field that ends in _end is set"
    if not gans.penalties_on(config):
        unused["lazy_every"] = "no penalty is on"
    if not any(config.d_augment.values()):
        unused["d_augment_probability"] = "no d_augment is on"
    elif config.ada_target:
        unused["d_augment_probability"] = "ada_target controls it"
    if "d_augment_probability" in unused:
        unused["d_augment_probability_end"] = unused["d_augment_probability"]
    if not config.ada_target:
        unused["ada_images"] = "ada_target is 0"
    if not config.eval_every:
        for field in ("eval_samples", "eval_features", "best_metric"):
            unused[field] = "eval_every is 0"
    if "inception" not in (config.eval_features or ""):
        unused["inception_weights"] = "eval_features names no inception network"
    if not config.checkpoint_every:
        unused["checkpoints_kept"] = "checkpoint_every is 0"
    if config.on_nan == "stop":
        unused["max_rollbacks"] = "on_nan is stop"
    if config.population > 1:
        unused["shard_state"] = "a population is spread by its members"
    elif (config.devices or len(devices.available())) == 1:
        unused["shard_state"] = "one device has the whole state"
    if not config.target.metric:
        unused["target.value"] = "target.metric is not set"
    if config.dataset in data.TOYS:
        unused["resolution"] = f"{config.dataset} has points"
    if config.dataset in (*data.TOYS, "digits") or config.dataset.startswith("folder:"):
        unused["data_dir"] = f"{config.dataset} is not read from there"
    if data.is_computed(config.dataset):
        unused |= dict.fromkeys(("stream", "stream_workers"), f"{config.dataset} is made in memory")
    elif config.stream is False:
        unused["stream_workers"] = "stream is False"
    return unused


def _check_share(field: str, share: float | None) -> None:
    _require(share is None or share <= 1, f"{field} is at most 1, not {share}")


def _choose(choices: dict[str, Any], name: str, field: str) -> str:
    _require(name in choices, f"{field}={name!r} does not exist: choose from {', '.join(choices)}")
    return name


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise app.UsageError(message)

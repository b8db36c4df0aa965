"""Every field of a config, with its default; a page a data set (mnist.py, ...) changes some.

Fields that are None take the value of the network, or of the data set, that is chosen. A penalty,
an augmentation or a network's field that a fork adds in its own file is a field here by itself.
A number x with a field x_end goes there along a cosine in `decay_images`; None: it stays as it is.
"""

import inspect
from typing import get_args, get_type_hints

from ml_collections import ConfigDict, config_dict

from augment import AUGMENTATIONS, D_AUGMENTATIONS
from models import DISCRIMINATORS, GENERATORS, network_fields
from penalties import PENALTIES


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.recipe = ""  # the name of what recipes.py made of this
    config.seed = 0  # of weights, latents and the order of the examples
    config.population = 1  # runs of seeds seed, seed + 1, ... in one folder

    # Data
    # digits, mnist, fashion_mnist, cifar10, stacked_mnist, ring, grid, folder:PATH, or one of TFDS
    # with an image
    config.dataset = "digits"
    config.data_dir = config_dict.placeholder(str)  # None: TFDS_DATA_DIR or TFDS's own default
    config.resolution = config_dict.placeholder(int)  # pixels; None: as the data set has it
    # Images are decoded as they are needed; None: where all would take too much memory (data.py)
    config.stream = config_dict.placeholder(bool)
    config.stream_workers = config_dict.placeholder(int)  # that decode; None: one a core, up to 16
    config.balanced = False  # draw every class equally often
    # Of the real images: the generator learns their distribution. As in augment.py; 0 is off
    config.augment = ConfigDict()
    for name, function in AUGMENTATIONS.items():
        strength = list(inspect.signature(function, eval_str=True).parameters.values())[-1]
        config.augment[name] = 0 if strength.annotation is int else 0.0
    # Of what D sees, real and fake: the generator does not learn these. Shares of a probability
    config.d_augment = ConfigDict(dict.fromkeys(D_AUGMENTATIONS, 0.0))
    config.d_augment_probability = 1.0
    config.d_augment_probability_end = config_dict.placeholder(float)
    config.ada_target = 0.0  # ADA's controller of that probability: D's mean sign on real images
    config.ada_images = 500_000  # in so many the controller goes from 0 to 1 at most

    # Networks: names and fields as in models.py
    config.latent_dim = 100
    config.conditional = False  # both networks are given the examples' labels
    config.packing = 1  # examples that D judges as one
    for player, networks in (("generator", GENERATORS), ("discriminator", DISCRIMINATORS)):
        config[player] = ConfigDict({"name": "mlp"})
        for network in networks.values():
            for field, default in network_fields(network).items():
                of_type = type(default) if default is not None else _but_none(network, field)
                config[player][field] = config_dict.placeholder(of_type)
    config.precision = "float32"  # float32 or bfloat16: the networks' arithmetic, not parameters

    # The game
    config.loss = "non_saturating"  # as in losses.py
    config.penalties = ConfigDict()  # weights; 0 is off
    for name in PENALTIES:
        config.penalties[name] = 0.0
        config.penalties[f"{name}_end"] = config_dict.placeholder(float)
    config.lazy_every = 1  # penalties only in every so-manieth step, that much heavier
    config.weight_clip = 0.0  # D's parameters are kept within +- this; 0 is off
    config.d_steps = 1  # discriminator updates before each generator update
    # alternating: G answers the D of this step; simultaneous: that of the step before;
    # extragradient: both descend by the gradients of where a simultaneous step would lead
    config.update_rule = "alternating"

    # Devices: each batch is split over them
    config.devices = config_dict.placeholder(int)  # of this machine; None: all
    config.shard_state = False  # moments and average are split, too: less memory on each

    # Optimisation
    config.batch_size = 128  # images of one update
    config.accumulate = 1  # micro-batches of a batch, one after the other: less memory
    config.num_steps = 5_000  # generator updates
    # Of one call of the compiled program; None: 1 where XLA is slow at loops (convolutions on a
    # CPU) or a step is long, else 50, and what a run has begun with where it is resumed
    config.steps_per_call = config_dict.placeholder(int)
    config.optimizer = ConfigDict()
    for player in ("generator", "discriminator"):
        config.optimizer[player] = ConfigDict()
        config.optimizer[player].name = "adam"  # as in optimizers.py
        config.optimizer[player].learning_rate = 2e-4
        config.optimizer[player].learning_rate_end = config_dict.placeholder(float)
        config.optimizer[player].b1 = 0.5
        config.optimizer[player].b2 = 0.999
        config.optimizer[player].b2_end = config_dict.placeholder(float)
        config.optimizer[player].momentum = 0.9
        config.optimizer[player].decay = 0.9
        config.optimizer[player].clip_norm = 0.0  # of the gradient, at most; 0 is off
    config.decay_images = 0  # images in which x goes to x_end; 0: it stays
    config.ema_half_life = 0.0  # images that halve the average's memory; 0: no average
    config.ema_half_life_end = config_dict.placeholder(float)
    config.standing_statistics = 0  # batches of its samples for the average's statistics; 0 is off

    # Reports, in steps; 0 is never
    config.log_every = 100
    config.sample_every = 1_000
    config.eval_every = 1_000  # multiples only: a run of fewer steps is not scored
    config.checkpoint_every = 1_000
    config.checkpoints_kept = 2  # the latest, beside the best
    config.target = ConfigDict()  # stop when this logged metric is as good as this value
    config.target.metric = ""  # such as eval/fd_classifier; empty: no target
    config.target.value = 0.0

    # Where numbers are not finite: stop; or rollback: go back to the last checkpoint, with half the
    # learning rates and other latents and examples, so many times at most
    config.on_nan = "stop"
    config.max_rollbacks = 3

    # Scores: docs/metrics.md
    config.eval_samples = config_dict.placeholder(int)  # None: as many as are held out, or 10,000
    # As in features.py, with commas between; None: the data set's own classifier, if it has one
    config.eval_features = config_dict.placeholder(str)
    config.inception_weights = config_dict.placeholder(str)  # None: the cache folder, or a download
    config.best_metric = ""  # whose best checkpoint is kept; empty: FID, or fd_classifier, ...
    return config.lock()  # a mistyped name in a page is an error


def _but_none(network: type, field: str) -> type:
    """What a field of such a type as `int | None` takes beside None."""
    return next(x for x in get_args(get_type_hints(network)[field]) if x is not type(None))

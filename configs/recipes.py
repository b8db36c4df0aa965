"""Recipes: the second axis of a config. `--config=configs/mnist.py:goodfellow` picks one by name.

Each takes the default config and changes what makes the method; docs/recipes.md has the papers,
every deviation and the measured figures. To try one of your own, write one function here, and name
it in RECIPES; tests/test_recipes.py asks for the steps in which it learns the digits, and how well.
"""

from typing import Any

from absl import app
from ml_collections import ConfigDict

from configs import default

PLAYERS = ("generator", "discriminator")


def goodfellow(config: ConfigDict) -> None:
    """An MLP pair, the minimax game, alternating stochastic gradient.

    Each network has two hidden layers of 128 with leaky ReLU. D's rate is a tenth of G's: at equal
    rates D soon tells all images right, G's gradient vanishes, and the pictures stay noise
    (`--config.optimizer.discriminator.learning_rate=0.1` shows it).
    Source: Goodfellow et al. 2014, algorithm 1 (k = `d_steps`), as tutorials retell it.
    """
    config.loss = "minimax"
    _networks(config, "mlp")
    for player in PLAYERS:
        config.optimizer[player].name = "sgd"
    config.optimizer.generator.learning_rate = 0.1
    config.optimizer.discriminator.learning_rate = 0.01


def cgan(config: ConfigDict) -> None:
    """An MLP pair that is given labels, the non-saturating loss, gradient descent with momentum.

    Source: Mirza and Osindero 2014.
    """
    config.loss = "non_saturating"
    config.conditional = True
    _networks(config, "mlp")
    config.discriminator.condition = "concat"
    for player in PLAYERS:
        config.optimizer[player].name = "momentum"
        config.optimizer[player].momentum = 0.5
        config.optimizer[player].learning_rate = 0.05


def dcgan(config: ConfigDict) -> None:
    """Convolutions and batch normalisation, the non-saturating loss, Adam.

    Source: Radford et al. 2016.
    """
    config.loss = "non_saturating"
    _networks(config, "dcgan")
    _adam(config, 2e-4, b1=0.5)


def lsgan(config: ConfigDict) -> None:
    """Dcgan's networks, D drawn to 1 and 0 by least squares.

    Source: Mao et al. 2017.
    """
    dcgan(config)
    config.loss = "least_squares"


def acgan(config: ConfigDict) -> None:
    """Dcgan's networks, G given labels, D with a classifier of them.

    Source: Odena et al. 2017.
    """
    dcgan(config)
    config.conditional = True
    config.generator.condition = "concat"
    config.discriminator.condition = "acgan"


def wgan(config: ConfigDict) -> None:
    """Dcgan's networks, the Wasserstein loss, D's weights clipped, five updates of D, RMSProp.

    Source: Arjovsky et al. 2017, algorithm 1.
    """
    config.loss = "wasserstein"
    config.weight_clip = 0.01
    config.d_steps = 5
    _networks(config, "dcgan")
    for player in PLAYERS:
        config.optimizer[player].name = "rmsprop"
        config.optimizer[player].decay = 0.99
        config.optimizer[player].learning_rate = 5e-5
    config.batch_size = 64


def wgan_gp(config: ConfigDict) -> None:
    """Residual networks, the Wasserstein loss, D's gradient drawn to 1, five updates of D.

    Source: Gulrajani et al. 2017, algorithm 1.
    """
    config.loss = "wasserstein"
    config.penalties.gp = 10.0
    config.d_steps = 5
    _networks(config, "resnet", width=64)
    config.discriminator.norm = "layer"
    config.discriminator.pool = "mean"
    _adam(config, 2e-4, b1=0.0, b2=0.9)
    config.batch_size = 64


def optimistic(config: ConfigDict) -> None:
    """The Wasserstein game with a penalty, one update each, Adam that foresees the other player.

    Source: Daskalakis et al. 2018.
    """
    config.loss = "wasserstein"
    config.penalties.gp = 10.0
    _networks(config, "dcgan")
    config.discriminator.norm = "none"
    _adam(config, 1e-4, b1=0.5, b2=0.9)
    for player in PLAYERS:
        config.optimizer[player].name = "optimistic_adam"


def dragan(config: ConfigDict) -> None:
    """Dcgan's networks, D's gradient drawn to 1 around real images.

    Source: Kodali et al. 2017.
    """
    dcgan(config)
    config.penalties.dragan = 10.0
    config.discriminator.norm = "none"


def zero_centred(config: ConfigDict) -> None:
    """Dcgan's networks without normalisation in D, whose gradient is drawn to 0 between images.

    Source: Thanh-Tung et al. 2019.
    """
    dcgan(config)
    config.penalties.zero_centred_gp = 10.0
    config.discriminator.norm = "none"


def mescheder(config: ConfigDict) -> None:
    """An MLP pair, the non-saturating loss with R1, Adam, a moving average of the generator.

    Source: Mescheder et al. 2018, whose networks are residual ones.
    """
    config.loss = "non_saturating"
    config.penalties.r1 = 3.0
    config.ema_half_life = 10_000.0
    _networks(config, "mlp", width=256)
    _adam(config, 1e-3, b1=0.0)


def sngan(config: ConfigDict) -> None:
    """Residual networks, hinge loss, D's layers normalised by their largest singular value.

    Source: Miyato et al. 2018.
    """
    config.loss = "hinge"
    config.d_steps = 5
    _networks(config, "resnet", width=64)
    config.discriminator.norm = "spectral"
    _adam(config, 2e-4, b1=0.0, b2=0.9)
    config.batch_size = 64


def projection(config: ConfigDict) -> None:
    """Sngan, G's normalisation given labels, D's features projected onto theirs.

    Source: Miyato and Koyama 2018.
    """
    sngan(config)
    config.conditional = True
    config.generator.condition = "norm"
    config.discriminator.condition = "projection"


def pacgan(config: ConfigDict) -> None:
    """Dcgan, whose D judges two images at once.

    Source: Lin et al. 2018 (PacDCGAN2).
    """
    dcgan(config)
    config.packing = 2


def ragan(config: ConfigDict) -> None:
    """Dcgan's networks, each logit relative to the mean of the other kind.

    Source: Jolicoeur-Martineau 2019 (RaSGAN).
    """
    dcgan(config)
    config.loss = "relativistic_average"


def bcr(config: ConfigDict) -> None:
    """Sngan, whose D says the same of an image and of the image shifted.

    Source: Zhao et al. 2021.
    """
    sngan(config)
    config.d_steps = 1
    config.penalties.bcr = 10.0


def lecam(config: ConfigDict) -> None:
    """Sngan, whose D's logits are held near what it has said of the other kind.

    Source: Tseng et al. 2021.
    """
    sngan(config)
    config.d_steps = 1
    config.penalties.lecam = 0.1


def diffaugment(config: ConfigDict) -> None:
    """Sngan, whose D sees real and fake images recoloured, shifted and with a part cut out.

    Source: Zhao et al. 2020.
    """
    sngan(config)
    config.d_steps = 1
    for name in ("color", "translation", "cutout"):
        config.d_augment[name] = 1.0


def ada(config: ConfigDict) -> None:
    """Mescheder's game on dcgan's networks, D's images augmented as often as it overfits.

    Source: Karras et al. 2020.
    """
    mescheder(config)
    _networks(config, "dcgan", width=None)
    config.discriminator.norm = "none"
    config.penalties.r1 = 1.0
    for name in ("geometric", "chromatic"):
        config.d_augment[name] = 1.0
    config.ada_target = 0.6


def r3gan(config: ConfigDict) -> None:
    """Residual networks without normalisation, the paired relativistic loss, R1 and R2.

    A small preset; `r3gan_cifar10` is the published one.
    Source: Huang et al. 2024.
    """
    config.loss = "relativistic_paired"
    config.latent_dim = 64
    _networks(config, "r3gan", widths=(64, 32), blocks=1)
    _adam(config, 1e-3, b1=0.0, b2=0.99)
    for name in ("r1", "r2"):
        config.penalties[name] = 1.0
    config.batch_size = 64
    config.ema_half_life = 10_000.0


def r3gan_cifar10(config: ConfigDict) -> None:
    """R3GAN as published for CIFAR-10: 20.8 and 21.3 million parameters, an accelerator's work.

    Source: Huang et al. 2024, appendix D and the authors' code.
    """
    r3gan(config)
    config.conditional = True
    config.precision = "bfloat16"
    _networks(config, "r3gan", widths=(768,), blocks=2)
    _adam(config, 2e-4, b1=0.0, b2=0.9)
    config.decay_images = 20_000_000
    for player in PLAYERS:
        config.optimizer[player].learning_rate_end = 5e-5
        config.optimizer[player].b2_end = 0.99
    for name in ("r1", "r2"):
        config.penalties[name] = 0.05
        config.penalties[f"{name}_end"] = 0.005
    config.ema_half_life = 0.0
    config.ema_half_life_end = 5_000_000.0
    config.augment.flip = 0.5
    for name, share in (("geometric", 1.0), ("chromatic", 0.5), ("cutout", 1.0)):
        config.d_augment[name] = share
    config.d_augment_probability = 0.0
    config.d_augment_probability_end = 0.55
    config.batch_size = 512


RECIPES = {
    f.__name__: f
    for f in (
        goodfellow, cgan, dcgan, lsgan, acgan, wgan, wgan_gp, dragan, mescheder, optimistic,
        sngan, projection, zero_centred, pacgan, ragan, diffaugment, ada, bcr, lecam,
        r3gan, r3gan_cifar10,
    )
}  # fmt: skip


def get_config(name: str = "") -> ConfigDict:
    """The default config, changed by the recipe of that name.

    Raises:
      app.UsageError: there is none.
    """
    if name not in RECIPES:
        raise app.UsageError(f"recipe {name!r} does not exist: choose from {', '.join(RECIPES)}")
    config = default.get_config()
    RECIPES[name](config)
    config.recipe = name
    return config


def _networks(config: ConfigDict, name: str, **fields: Any) -> None:
    for player in PLAYERS:
        config[player].name = name
        config[player].update(fields)


def _adam(config: ConfigDict, learning_rate: float, b1: float, b2: float = 0.999) -> None:
    for player in PLAYERS:
        optimizer = config.optimizer[player]
        optimizer.name, optimizer.learning_rate = "adam", learning_rate
        optimizer.b1, optimizer.b2 = b1, b2

"""Recipes: the second axis of a config. `--config=configs/mnist.py:goodfellow` picks one by name.

Each takes the default config and changes what makes the method.
"""

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
    for player in PLAYERS:
        config[player].name = "mlp"
        config.optimizer[player].name = "sgd"
    config.optimizer.generator.learning_rate = 0.1
    config.optimizer.discriminator.learning_rate = 0.01


def mescheder(config: ConfigDict) -> None:
    """An MLP pair, the non-saturating loss with R1, Adam, a moving average of the generator.

    Source: Mescheder et al. 2018, whose networks are residual ones.
    """
    config.loss = "non_saturating"
    config.penalties.r1 = 3.0
    config.ema_half_life = 10_000.0
    for player in PLAYERS:
        config[player].name = "mlp"
        config[player].width = 256
        config.optimizer[player].name = "adam"
        config.optimizer[player].learning_rate = 1e-3
        config.optimizer[player].b1 = 0.0


def dcgan(config: ConfigDict) -> None:
    """Convolutions and batch normalisation, the non-saturating loss, Adam.

    Source: Radford et al. 2016.
    """
    config.loss = "non_saturating"
    for player in PLAYERS:
        config[player].name = "dcgan"
        config.optimizer[player].name = "adam"
        config.optimizer[player].learning_rate = 2e-4
        config.optimizer[player].b1 = 0.5


RECIPES = {f.__name__: f for f in (goodfellow, mescheder, dcgan)}


def get_config(name: str = "") -> ConfigDict:
    """The default config, changed by the recipe of that name."""
    if name not in RECIPES:
        raise app.UsageError(f"recipe {name!r} does not exist: choose from {', '.join(RECIPES)}")
    config = default.get_config()
    RECIPES[name](config)
    config.recipe = name
    return config

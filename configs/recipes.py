"""Recipes: the second axis of a config. `--config=configs/mnist.py:goodfellow` picks one by name.

Each takes the default config and changes what makes the method.
"""

from absl import app
from ml_collections import ConfigDict

from configs import default


def goodfellow(config: ConfigDict) -> None:
    """An MLP pair, the minimax game, alternating stochastic gradient.

    Each network has two hidden layers of 128 with leaky ReLU, as models.py has them.

    Source: Goodfellow et al. 2014, algorithm 1 (k = `d_steps`), as tutorials retell it.
    """
    config.latent_dim = 100
    config.loss = "minimax"
    for player in ("generator", "discriminator"):
        config[player].name = "mlp"
        config.optimizer[player].name = "sgd"
        config.optimizer[player].learning_rate = 0.1


def dcgan(config: ConfigDict) -> None:
    """Convolutions and batch normalisation, the non-saturating loss, Adam.

    Source: Radford et al. 2016.
    """
    config.latent_dim = 100
    config.loss = "non_saturating"
    for player in ("generator", "discriminator"):
        config[player].name = "dcgan"
        config.optimizer[player].name = "adam"
        config.optimizer[player].learning_rate = 2e-4
        config.optimizer[player].b1 = 0.5


RECIPES = {f.__name__: f for f in (goodfellow, dcgan)}


def get_config(name: str) -> ConfigDict:
    """The default config, changed by the recipe of that name."""
    if name not in RECIPES:
        raise app.UsageError(f"recipe {name!r} does not exist: choose from {', '.join(RECIPES)}")
    config = default.get_config()
    RECIPES[name](config)
    config.recipe = name
    return config

"""Stacked MNIST: three digits as the channels of an image, 28x28, 1,000 modes to be found.

python train.py --config=configs/stacked_mnist.py

Scored as PacGAN does (Lin et al. 2018): the modes that 26,000 samples show, and the KL divergence
of their classes from the data's, whose floor at so many is 0.019.
"""

from ml_collections import ConfigDict

from configs import mnist, recipes


def get_config(recipe: str = "r3gan") -> ConfigDict:
    config = mnist.get_config(recipe)
    config.dataset = "stacked_mnist"
    if recipe == "r3gan":
        config.num_steps = 40_000
        config.eval_every = 5_000
        config.generator.widths = (128, 64, 16)
        config.discriminator.widths = (128, 32, 8)
        config.decay_images = 2_500_000
        for player in recipes.PLAYERS:
            config.optimizer[player].learning_rate_end = 1e-4
        for name in ("r1", "r2"):
            config.penalties[f"{name}_end"] = 0.1
        config.ema_half_life_end = 50_000.0
    config.eval_samples = 26_000
    config.best_metric = "eval/mode_kl"
    return config

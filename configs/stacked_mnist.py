"""Stacked MNIST: three digits as the channels of an image, 28x28, 1,000 modes to be found.

    python train.py --config=configs/stacked_mnist.py

Scored as PacGAN does (Lin et al. 2018): the modes that 26,000 samples show, and the KL divergence
of their classes from the data's, whose floor at so many is 0.019.
R3GAN's game is played between dcgan's networks, D's without normalisation, which a CPU trains
about twice as fast as residual blocks at 28 pixels: 40,000 steps take some 2.6 hours of one core.
Expect all 1,000 modes, and a KL of about 0.051 (one seed; PacDCGAN2 has 0.06, R3GAN's paper 0.078);
after the first 8,000 steps 0.079. docs/recipes.md has the command and an ablation.
"""

from ml_collections import ConfigDict

from configs import mnist, recipes


def get_config(recipe: str = "r3gan") -> ConfigDict:
    config = mnist.get_config(recipe)
    config.dataset = "stacked_mnist"
    if recipe == "r3gan":
        config.num_steps = 40_000
        config.eval_every = 8_000
        for player in recipes.PLAYERS:
            config[player].update({"name": "dcgan", "widths": None, "blocks": None, "width": 48})
        config.discriminator.norm = "none"
        config.decay_images = 2_400_000
        for player in recipes.PLAYERS:
            config.optimizer[player].learning_rate = 2e-3
            config.optimizer[player].learning_rate_end = 1e-4
        for name in ("r1", "r2"):
            config.penalties[f"{name}_end"] = 0.2
        config.ema_half_life_end = 100_000.0
    config.eval_samples = 26_000
    config.best_metric = "eval/mode_kl"
    return config

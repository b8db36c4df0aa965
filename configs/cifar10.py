"""CIFAR-10: 50,000 photographs of ten kinds, 32x32, RGB.

python train.py --config=configs/cifar10.py
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(recipe: str = "dcgan") -> ConfigDict:
    config = recipes.get_config(recipe)
    config.dataset = "cifar10"
    if recipe == "r3gan":
        config.generator.widths = (128, 64, 32, 16)
        config.discriminator.widths = (128, 64, 32, 16)
    config.num_steps = 20_000
    config.eval_every = 5_000
    if recipe == "r3gan_cifar10":  # the published 250 million images
        config.num_steps = 488_282
        config.eval_every = 10_000
    return config

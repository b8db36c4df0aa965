"""Stacked MNIST: three digits as the channels of an image, 28x28, 1,000 modes to be found.

python train.py --config=configs/stacked_mnist.py

Scored as PacGAN does (Lin et al. 2018): the modes that 26,000 samples show, and the KL divergence
of their classes from the data's, whose floor at so many is 0.019.
"""

from ml_collections import ConfigDict

from configs import mnist


def get_config(recipe: str = "dcgan") -> ConfigDict:
    config = mnist.get_config(recipe)
    config.dataset = "stacked_mnist"
    config.eval_samples = 26_000
    config.best_metric = "eval/mode_kl"
    return config

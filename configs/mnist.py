"""MNIST: 60,000 handwritten digits, 28x28, grey.

    python train.py --config=configs/mnist.py

TBD
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(recipe: str = "dcgan") -> ConfigDict:
    config = recipes.get_config(recipe)
    config.dataset = "mnist"
    config.num_steps = 20_000 if config.generator.name == "mlp" else 5_000
    return config

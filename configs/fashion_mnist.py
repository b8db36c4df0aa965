"""Fashion-MNIST: 60,000 pieces of clothing, 28x28, grey, laid out as MNIST is.

python train.py --config=configs/fashion_mnist.py
"""

from ml_collections import ConfigDict

from configs import mnist


def get_config(recipe: str = "dcgan") -> ConfigDict:
    config = mnist.get_config(recipe)
    config.dataset = "fashion_mnist"
    return config

"""MNIST, 28x28 grey."""

from configs import recipes


def get_config(recipe: str = "dcgan"):
    config = recipes.get_config(recipe)
    config.dataset = "mnist"
    return config

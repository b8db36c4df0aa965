"""scikit-learn's digits, 8x8 grey."""

from configs import recipes


def get_config(recipe: str = "dcgan"):
    config = recipes.get_config(recipe)
    config.dataset = "digits"
    return config

"""scikit-learn's digits, 8x8 grey."""

from configs import recipes


def get_config(recipe: str = "mescheder"):
    config = recipes.get_config(recipe)
    config.dataset = "digits"
    config.num_steps = 10_000
    return config

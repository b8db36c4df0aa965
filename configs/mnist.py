"""MNIST: 60,000 handwritten digits, 28x28, grey.

    python train.py --config=configs/mnist.py
    python train.py --config=configs/mnist.py:goodfellow

About 20 min on 2 CPU cores (570 images/s), goodfellow a minute and a half. No score yet chooses
between the recipes: by eye dcgan's digits are the cleanest, which makes it the default.
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(recipe: str = "dcgan") -> ConfigDict:
    config = recipes.get_config(recipe)
    config.dataset = "mnist"
    config.num_steps = 20_000 if config.generator.name == "mlp" else 5_000
    return config

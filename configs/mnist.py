"""MNIST: 60,000 handwritten digits, 28x28, grey.

    python train.py --config=configs/mnist.py
    python train.py --config=configs/mnist.py:goodfellow

5,000 steps: 19 min on 2 idle CPU cores by its rate of 559 images/s (36 min in the run that was
measured whole, beside other work); goodfellow, 38,500 images/s, about a minute.
No score yet chooses between the recipes: by eye dcgan's digits are the cleanest, which makes it
the default.
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(recipe: str = "dcgan") -> ConfigDict:
    config = recipes.get_config(recipe)
    config.dataset = "mnist"
    config.num_steps = 20_000 if config.generator.name == "mlp" else 5_000
    return config

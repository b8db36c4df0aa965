"""MNIST: 60,000 handwritten digits, 28x28, grey.

    python train.py --config=configs/mnist.py
    python train.py --config=configs/mnist.py:goodfellow

On 2 CPU cores: 5,000 steps in 12.5 min (850 images/s), on one of them in 20; goodfellow's 20,000
in 45 s of one core (59,000 images/s). evaluate.py takes 17 s for 10,000 samples.
Expect after 5,000 steps digits, a class a row, most of them the one of their row, and an
fd_classifier of 0.241 ± 0.01 (seeds 3 to 5, which did not choose the recipe; real digits: 0.007):

    python studies/recipes.py --config=configs/mnist.py --recipe=acgan --seeds=3 \\
        --first_seed=3 --out=acgan.md

goodfellow's digits are full of noise, with an fd_classifier of 77. docs/recipes.md compares them.
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(recipe: str = "acgan") -> ConfigDict:
    config = recipes.get_config(recipe)
    config.dataset = "mnist"
    if recipe == "r3gan":
        config.generator.widths, config.discriminator.widths = (128, 64, 16), (64, 32, 8)
    config.num_steps = 20_000 if config.generator.name == "mlp" else 5_000
    config.eval_every = config.num_steps // 2
    return config

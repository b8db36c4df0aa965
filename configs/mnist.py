"""MNIST: 60,000 handwritten digits, 28x28, grey.

    python train.py --config=configs/mnist.py
    python train.py --config=configs/mnist.py:goodfellow

On 2 CPU cores: 5,000 steps in 17 min (640 images/s); goodfellow's 20,000 in about a minute (39,000
to 43,000 images/s). An evaluation of 10,000 samples takes 12 s.
Expect after 5,000 steps an fd_classifier of about 1.7 (one seed; real digits: 0.007), and clean
strokes of which some are no digit. goodfellow's are noisy then, and its fd_classifier is 72.
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(recipe: str = "pacgan") -> ConfigDict:
    config = recipes.get_config(recipe)
    config.dataset = "mnist"
    if recipe == "r3gan":
        config.generator.widths, config.discriminator.widths = (128, 64, 16), (64, 32, 8)
    config.num_steps = 20_000 if config.generator.name == "mlp" else 5_000
    config.eval_every = config.num_steps // 2
    return config

"""scikit-learn's digits: 1,297 of them, 8x8, grey, embedded in its package: no download.

    make demo
    python train.py --config=configs/digits.py

About 40 s on 2 CPU cores. Expect: readable digits of all ten classes, d_accuracy about 0.7, and an
fd_classifier of about 3.5 (one seed; real digits: 0.53).
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(recipe: str = "mescheder") -> ConfigDict:
    config = recipes.get_config(recipe)
    config.dataset = "digits"
    if recipe == "r3gan":
        config.generator.widths, config.discriminator.widths = (32, 16), (64, 16)
        config.batch_size = 32
        config.optimizer.generator.learning_rate = 2e-3
        config.ema_half_life = 2_000.0
        for name in ("r1", "r2"):
            config.penalties[name] = 0.3
    if config.generator.name == "resnet":
        config.generator.width = config.discriminator.width = 16
    config.num_steps = 8_000
    config.eval_every = 2_000
    return config

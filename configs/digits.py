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
    config.num_steps = 8_000
    config.eval_every = 2_000
    return config

"""A ring of 8 Gaussians: points in the plane, on which mode collapse can be seen.

python train.py --config=configs/ring.py
python train.py --config=configs/ring.py --config.dataset=grid  # 25 Gaussians
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(recipe: str = "mescheder") -> ConfigDict:
    config = recipes.get_config(recipe)
    config.dataset = "ring"
    config.latent_dim = 2
    return config

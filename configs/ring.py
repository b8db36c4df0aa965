"""A ring of 8 Gaussians: points in the plane, on which mode collapse can be seen.

    python train.py --config=configs/ring.py
    python train.py --config=configs/ring.py --config.dataset=grid  # 25 Gaussians

A recipe plays its game here between MLPs, spectrally normalised where it has its D so. Those that
shift or recolour images (bcr, diffaugment, ada, r3gan_cifar10) have nothing to play with.
"""

from ml_collections import ConfigDict

from configs import default, recipes


def get_config(recipe: str = "mescheder") -> ConfigDict:
    config = recipes.get_config(recipe)
    config.dataset = "ring"
    config.latent_dim = 2
    usual = default.get_config()
    for player in recipes.PLAYERS:
        if config[player].name == "mlp":
            continue
        network = usual[player]
        if player == "discriminator":
            network.condition = config.discriminator.condition
            network.norm = "spectral" if config.discriminator.norm == "spectral" else None
        config[player] = network
    return config

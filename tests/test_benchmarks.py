"""What the benchmark compares is the same computation on both sides."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gan as gans
import starts
from benchmarks.workloads import CPU_WORKLOADS, make_config

torch = pytest.importorskip("torch")
pytorch_gan = pytest.importorskip("benchmarks.pytorch_gan")


@pytest.mark.slow
@pytest.mark.parametrize("workload", CPU_WORKLOADS)
def test_both_sides_have_the_same_losses(workload, tfds_data):
    """The first three steps, from the same parameters, on the same images and latents.

    R3GAN's blocks start as nothing: their last layers are moved first. Lazy penalties come at once.
    """
    config = make_config(workload, batch_size=8)
    config.lazy_every = min(config.lazy_every, 2)
    dataset, gan, _ = starts.prepare(config)
    state = gans.init(gan, config, jax.random.key(0))
    moved = jax.tree.map(
        lambda x: x if x.any() else 0.1 * jax.random.normal(jax.random.key(1), x.shape),
        state.discriminator.params,
    )
    state = state.replace(discriminator=state.discriminator.replace(params=moved))
    update = jax.jit(gans.update, static_argnums=(0, 3))
    trainer = pytorch_gan.Trainer(config, gan, dataset.spec.shape[-1:] + dataset.spec.shape[:-1])
    pytorch_gan.from_state(trainer, state)
    for step in range(3):
        lazy = (step + 1) % config.lazy_every == 0
        images = dataset.images[16 * step : 16 * step + 16].reshape(2, 1, 8, *dataset.spec.shape)
        batch = {"images": jnp.asarray(images)}
        key, d_key = jax.random.split(jax.random.fold_in(state.key, state.step), 2)
        latents = [
            torch.from_numpy(np.array(gans._prepare(gan, k, batch, i).latents[0]))
            for i, k in enumerate((d_key, key))
        ]
        real = [
            torch.from_numpy(np.moveaxis(np.array(gans.to_float(x[0])), -1, 1).copy())
            for x in batch["images"]
        ]
        state, metrics = update(gan, state, batch, lazy)
        d_loss, g_loss = trainer.step(step, real, latents)
        penalties = sum(
            float(state.hparams["penalties"][name]) * config.lazy_every * float(metrics[name])
            for name in gan.penalties
            if lazy
        )
        assert float(d_loss) == pytest.approx(float(metrics["d_loss"]) + penalties, rel=1e-3)
        assert float(g_loss) == pytest.approx(float(metrics["g_loss"]), rel=1e-3)

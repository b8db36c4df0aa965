"""What the benchmark compares is the same computation on both sides."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import import_script

import data
import gan as gans
import starts
from benchmarks.workloads import CPU_WORKLOADS, make_config

torch = pytest.importorskip("torch")
pytorch_gan = pytest.importorskip("benchmarks.pytorch_gan")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "precision", "tolerance"),
    [
        *((workload, "float32", 1e-3) for workload in CPU_WORKLOADS),
        ("dcgan", "bfloat16", 0.03),
        ("r3gan", "bfloat16", 0.03),
    ],
)
def test_both_sides_have_the_same_losses(workload, precision, tolerance, tfds_data):
    """The first three steps, from the same parameters, on the same images and latents.

    R3GAN's blocks start as nothing: their last layers are moved first. Lazy penalties come at once.
    A number in bfloat16 is within 0.004 of what it stands for.
    """
    config = make_config(workload, batch_size=8)
    config.precision = precision
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
        assert float(d_loss) == pytest.approx(float(metrics["d_loss"]) + penalties, rel=tolerance)
        assert float(g_loss) == pytest.approx(float(metrics["g_loss"]), rel=tolerance)


def test_both_sides_have_the_same_blocks_in_bfloat16():
    """All but those of R3GAN's lowest stage, of both players; logits and images are float32."""
    config = make_config("r3gan", batch_size=2)
    config.precision = "bfloat16"
    gan = gans.make_gan(config, data.Spec((28, 28, 1), None))
    trainer = pytorch_gan.Trainer(config, gan, (1, 28, 28))
    inputs = {"generator": np.zeros((2, gan.latent_dim)), "discriminator": np.zeros((2, 28, 28, 1))}
    for player, x in inputs.items():
        theirs = []
        network = getattr(trainer, player)
        for module in network.modules():
            if isinstance(module, pytorch_gan.R3GANBlock):
                module.register_forward_hook(lambda *args, seen=theirs: seen.append(args[2].dtype))
        with torch.autocast("cpu", trainer.dtype):
            outputs = network(torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float32)))
        assert outputs.dtype == torch.float32
        init = functools.partial(
            getattr(gan, player).init, train=False, labels=None, capture_intermediates=True
        )
        ours = jax.eval_shape(init, jax.random.key(0), np.float32(x))["intermediates"]
        names = [f"R3GANBlock_{i}" for i in range(len(theirs))]
        assert [f"torch.{ours[name]['__call__'][0].dtype}" for name in names] == [*map(str, theirs)]
        assert len(set(theirs)) == 2


def test_the_average_follows_and_its_tensors_are_listed_once(monkeypatch):
    config = make_config("dcgan", batch_size=2)
    gan = gans.make_gan(config, data.Spec((28, 28, 1), None))
    trainer = pytorch_gan.Trainer(config, gan, (1, 28, 28))
    monkeypatch.delattr(pytorch_gan, "_numbers")
    before = [x.clone() for x in trainer.average.state_dict().values()]
    trainer.step(0, [torch.zeros(2, 1, 28, 28)] * 2)
    now = trainer.generator.state_dict().values()
    for old, new, average in zip(before, now, trainer.average.state_dict().values(), strict=True):
        if old.is_floating_point():
            torch.testing.assert_close(average, torch.lerp(old, new, 1 - trainer.keep))
            assert not torch.equal(old, new)


@pytest.mark.slow
def test_a_start_is_of_the_workload_and_its_phases_are_all_of_it(tfds_data):
    words = "--part=start", "--workload=mlp", "--json"
    command = [sys.executable, "benchmarks/throughput.py", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["start"]["mlp"]
    for seconds in found.values():
        assert min(seconds.values()) > 0
        assert sum(seconds.values()) == pytest.approx(2 * seconds["all"])
    assert found["warm"]["compile"] < found["cold"]["compile"]


def test_a_side_that_fails_takes_no_other_with_it(monkeypatch):
    """Ours, out of memory: PyTorch's blocks are there, without a ratio. Apart there is no spread."""
    throughput = import_script("throughput", "benchmarks")
    blocks = {"eager": [throughput.Report(seconds, 0) for seconds in (2.0, 4.0, 6.0)]}

    def in_turn(workload, batch_size, names, found, errors):
        found |= {name: blocks.get(name, []) for name in names}
        errors |= dict.fromkeys(names, "out of memory")

    monkeypatch.setattr(throughput, "in_turn", in_turn)
    monkeypatch.setattr(throughput, "ROUNDS", SimpleNamespace(value=3))
    for apart, ratio in ((False, [2.0, 1.0, 6.0]), (True, [2.0])):
        monkeypatch.setattr(throughput, "APART", SimpleNamespace(value=apart))
        blocks.pop("twoplayer", None)
        found = throughput.compare("mlp", None, ["twoplayer", "eager"])
        assert found["twoplayer"] == {"error": "out of memory"}
        assert (found["eager"]["seconds"], found["eager"]["ratio"]) == (4.0, [])
        blocks["twoplayer"] = [throughput.Report(seconds, 0) for seconds in (2.0, 2.0, 1.0)]
        assert throughput.compare("mlp", None, ["twoplayer", "eager"])["eager"]["ratio"] == ratio

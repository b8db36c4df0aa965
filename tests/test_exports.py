"""A generator as a file that jax alone reads."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, random_network

import data
import exports
import gan as gans
import latents
import layers

# jax's dependencies, and what jax.export reads files with.
BARE = ("jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy", "flatbuffers")
SMALL = {"generator.width": 8, "discriminator.width": 8, "batch_size": 16}
GENERATORS = {
    "dcgan, labels": ("dcgan", SMALL | {"conditional": True}),
    "resnet, spectral, standing": ("sngan", SMALL | {"standing_statistics": 2}),
    "resnet, labels, bfloat16": ("projection", SMALL | {"precision": "bfloat16"}),
    "r3gan, labels": ("r3gan", {"conditional": True, "batch_size": 16}),
    "wgan": ("wgan", {}),
}


@pytest.fixture
def make(make_config):
    """make('dcgan, labels'): a GAN and its averaged generator, as sample.py exports it."""

    def make(name: str) -> tuple[gans.Gan, gans.Network]:
        recipe, changes = GENERATORS[name]
        config = make_config(f"configs/digits.py:{recipe}", changes)
        size = 16 if config.generator.name == "dcgan" else 8  # two layers: a GPU has two forms
        gan = gans.make_gan(config, data.Spec((size, size, 1), 10))
        return gan, gans.standing_statistics(gan, random_network(gan), jax.random.key(2))

    return make


def run_bare(folder: Path, script: str) -> str:
    """What a script prints in a Python that can import jax, but nothing of ours nor Flax."""
    site = folder / "site"
    site.mkdir()
    for name in BARE:
        found = importlib.util.find_spec(name)
        place = Path(found.submodule_search_locations[0])
        (site / name).symlink_to(place)
        if (libraries := place.with_name(f"{name}.libs")).is_dir():
            (site / libraries.name).symlink_to(libraries)
    script = f"import sys; sys.path.append({str(site)!r})\n{script}\n" + (
        "import importlib.util\n"
        "assert not any(map(importlib.util.find_spec, ('flax', 'optax', 'gan', 'layers')))"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_jax_alone_makes_the_same_images(make, tmp_path):
    """Of every kind of generator, for two batch sizes, bit for bit."""
    expected = {}
    for i, name in enumerate(GENERATORS):
        gan, network = make(name)
        (tmp_path / f"{i}.jax").write_bytes(exports.export(gan, network).serialize())
        for num in (3, 17):
            given = np.asarray(gans.draw_latents(gan, jax.random.key(num), num))
            labels = np.arange(num, dtype=np.int32) % 10 if gan.num_classes else None
            arguments = [given] if labels is None else [given, labels]
            np.savez(tmp_path / f"{i}-{num}.npz", *arguments)
            expected[i, num] = latents.render(gan, network, given, labels)
    run_bare(
        tmp_path,
        "import jax, jax.export, numpy as np\n"
        f"for i in range({len(GENERATORS)}):\n"
        "    generator = jax.export.deserialize(open(f'{i}.jax', 'rb').read())\n"
        "    for num in (3, 17):\n"
        "        inputs = np.load(f'{i}-{num}.npz')\n"
        "        images = generator.call(*(inputs[x] for x in inputs))\n"
        "        np.save(f'{i}-{num}.npy', images)\n",
    )
    for (i, num), images in expected.items():
        found = np.load(tmp_path / f"{i}-{num}.npy")
        assert found.dtype == np.uint8
        assert images.std() > 1
        np.testing.assert_array_equal(found, images, err_msg=f"{list(GENERATORS)[i]}, {num}")


def test_the_readmes_lines_call_what_sample_exports(command, tmp_path):
    """Those that a run of the demo is exported and called by."""
    workdir = tmp_path / "runs/demo"
    words = ["--config=configs/digits.py", f"--workdir={workdir}", "--config.num_steps=2"]
    assert command("train.py", *words, "--config.eval_every=0").code == 0
    out = workdir / "generator.jax"
    result = command("sample.py", f"--workdir={workdir}", "--mode=export", f"--out={out}")
    assert (result.code, result.out.strip()) == (0, str(out)), result.err
    readme = (ROOT / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(import jax, jax.export.*?)```", readme, re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 3
    shape = "print(images.dtype, images.shape, generator.platforms)"
    assert run_bare(tmp_path, lines + shape) == "uint8 (16, 8, 8, 1) ('cpu', 'cuda')\n"


def test_points(make_config):
    config = make_config("configs/ring.py", {"generator.width": 8})
    gan = gans.make_gan(config, data.Spec((2,), 8))
    network = random_network(gan)
    exported = exports.export(gan, network)
    given = gans.draw_latents(gan, jax.random.key(1), 5)
    np.testing.assert_array_equal(exported.call(given), latents.render(gan, network, given))
    assert exported.out_avals[0].dtype == jnp.float32


@pytest.mark.parametrize("name", GENERATORS)
def test_each_platform_has_its_own_form_of_the_same(make, name):
    """CUDA's form gives the CPU's images; what is grouped or dilated is so in one of the two."""
    gan, network = make(name)
    given = [gans.draw_latents(gan, jax.random.key(1), 4)]
    if gan.num_classes:
        given.append(jnp.arange(4, dtype=jnp.int32))
    forms = {platform: exports._generate_on(gan, platform) for platform in exports.PLATFORMS}
    with jax.default_matmul_precision("highest"):
        ours, theirs = (np.asarray(jax.jit(f)(network, *given), int) for f in forms.values())
    assert np.abs(ours - theirs).max() <= (1 if "bfloat16" not in name else 8)
    text = {
        platform: jax.export.export(jax.jit(form), platforms=[platform])(network, *given).mlir_module()
        for platform, form in forms.items()
    }  # fmt: skip
    dilated = dict.fromkeys(("dcgan", "wgan"), "lhs_dilate")
    special = (dilated | {"r3gan": "feature_group_count = 4"}).get(name.split(",")[0])
    if special:
        assert special in text["cuda"]
        assert special not in text["cpu"]
        assert special in exports.export(gan, network).mlir_module()
    else:  # a ResNet's last, to few channels, is a product on a CPU
        last = name.startswith("resnet")
        assert text["cuda"].count("convolution") == text["cpu"].count("convolution") + last


def test_the_form_is_chosen_within_the_context_alone():
    assert layers._on_cpu() == (jax.default_backend() == "cpu")
    with layers.lowered_for("cuda"):
        assert not layers._on_cpu()
        with layers.lowered_for("cpu"):
            assert layers._on_cpu()
        assert not layers._on_cpu()
    assert layers._on_cpu() == (jax.default_backend() == "cpu")


def test_weights_are_in_the_file_once(make):
    gan, network = make("wgan")
    size = sum(x.nbytes for x in jax.tree.leaves(network))
    assert size < len(exports.export(gan, network).serialize()) < 1.3 * size

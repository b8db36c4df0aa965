"""What latents mean: paths, directions, inversion."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_network

import data
import gan as gans
import latents


@pytest.fixture
def make(make_config):
    """make('mescheder', **{'generator.width': 8}): a GAN of digits and a random generator."""

    def make(recipe: str, **changes):
        config = make_config(f"configs/digits.py:{recipe}", changes)
        gan = gans.make_gan(config, data.Spec((8, 8, 1), 10))
        return gan, random_network(gan)

    return make


def angle(a, b):
    """In float64, by the arc tangent."""
    a, b = (np.float64(x) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    return 2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))


PAIRS = {
    "any": (np.array([3.0, 1, -2, 0.5]), np.array([-1.0, 4, 0, 2])),
    "right angle": (np.array([2.0, 0, 0, 0]), np.array([0.0, 2, 0, 0])),
    "equal": (np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 4])),
    "one direction": (np.array([1.0, 2, 3, 4]), np.array([2.0, 4, 6, 8])),
    "near": (np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 4.001])),
    "opposite": (np.array([1.0, 2, 3, 4]), -np.array([1.0, 2, 3, 4])),
    "nearly opposite": (np.array([1.0, 2, 3, 4]), -np.array([1.0, 2, 3, 4.001])),
}


@pytest.mark.parametrize("name", PAIRS)
def test_slerp_has_constant_speed_and_linear_norms(name):
    start, end = PAIRS[name]
    t = np.linspace(0, 1, 11, dtype=np.float32)
    path = np.asarray(latents.slerp(jnp.float32(start), jnp.float32(end), jnp.asarray(t)))
    norms = np.linalg.norm(start), np.linalg.norm(end)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), norms[0] + t * (norms[1] - norms[0]), rtol=1e-6)  # fmt: skip
    np.testing.assert_allclose(path[0], start, atol=1e-6 * norms[0])
    np.testing.assert_allclose(path[-1], end, atol=2e-6 * norms[1])
    np.testing.assert_allclose(angle(path[0], path), t * angle(start, end), atol=1e-6)
    np.testing.assert_allclose(angle(path[:-1], path[1:]), angle(start, end) / 10, atol=1e-6)


def test_slerp_is_the_formula_of_the_paper_for_equal_norms():
    """Shoemake: (sin((1 - t) w) a + sin(t w) b) / sin(w)."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 3, 20))
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    w = np.arccos(np.sum(a * b, axis=-1))[..., None]
    t = 0.3
    expected = (np.sin((1 - t) * w) * a + np.sin(t * w) * b) / np.sin(w)
    np.testing.assert_allclose(latents.slerp(a, b, jnp.float32(t)), expected, atol=1e-6)


def test_a_walk_passes_its_anchors_and_comes_back():
    anchors = jax.random.normal(jax.random.key(0), (3, 2, 5, 16))
    path = latents.walk(anchors, jnp.array([0.0, 0.5, 1, 2, 2.25, 3]))
    for position, anchor in ((0, 0), (2, 1), (3, 2), (5, 0)):
        np.testing.assert_allclose(path[position], anchors[anchor], atol=1e-5)
    np.testing.assert_allclose(path[1], latents.slerp(anchors[0], anchors[1], 0.5), atol=1e-6)
    np.testing.assert_allclose(path[4], latents.slerp(anchors[2], anchors[0], 0.25), atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("mescheder", {}),
        ("mescheder", {"conditional": True, "precision": "bfloat16"}),
        ("dcgan", {"generator.width": 8}),
        ("dcgan", {"generator.width": 8, "conditional": True}),
        ("sngan", {}),
        ("projection", {"precision": "bfloat16"}),
        ("r3gan", {"conditional": True}),
    ],
)
def test_the_first_weight_is_found(make, recipe, changes):
    """It is the first Dense layer's, by the name that Flax gives it; without the labels' rows."""
    gan, network = make(recipe, **changes)
    weight = latents.first_weight(gan, network)
    kernel = network.params["Dense_0"]["kernel"]
    np.testing.assert_array_equal(weight, kernel[: gan.latent_dim])
    assert len(weight) == gan.latent_dim


class Strange(nn.Module):
    """Latents are normalised first, or pass no parameter."""

    shape: tuple[int, ...]
    fixed: bool = False

    @nn.compact
    def __call__(self, latents, labels, train):
        if self.fixed:
            hidden = latents @ jnp.ones((latents.shape[-1], 4))
        else:
            hidden = latents / jnp.linalg.norm(latents, axis=-1, keepdims=True)
        return nn.Dense(64)(hidden).reshape(-1, *self.shape)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_generator_without_a_first_weight_is_told(make, fixed):
    gan, _ = make("mescheder")
    gan = dataclasses.replace(gan, generator=Strange((8, 8, 1), fixed))
    network, _ = gans.init_networks(gan, jax.random.key(0))
    with pytest.raises(LookupError, match="Strange does not multiply its latents"):
        latents.first_weight(gan, network)


def test_semantic_directions_are_eigenvectors():
    """A A' n = value^2 n, unit, orthogonal, the strongest first."""
    weight = np.random.default_rng(0).normal(size=(6, 10))
    found = latents.semantic_directions(weight)
    product = weight @ weight.T
    np.testing.assert_allclose(product @ found.vectors.T, found.vectors.T * found.values**2, atol=1e-4)  # fmt: skip
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(6), atol=1e-6)
    np.testing.assert_allclose(found.values**2, np.linalg.eigvalsh(product)[::-1], rtol=1e-9)
    assert (found.vectors.max(axis=1) == np.abs(found.vectors).max(axis=1)).all()


class Stretched(nn.Module):
    """Layers whose components are known: latents times 4, 3, 2, 1, a square root's kink behind."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, latents, labels, train):
        turned = nn.Dense(4, name="turn", use_bias=False)(latents)
        bent = Bend(name="bend")(turned * jnp.array([1.0, 4, 2, 3]))
        return nn.Dense(64, name="last")(bent).reshape(-1, *self.shape)


class Bend(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return inputs + 0.3 * jnp.abs(inputs)


def test_principal_directions_are_those_of_a_layer_whose_components_are_known(make):
    """A layer that is not affine, and grows with one turned latent number each: 4, 3, 2, 1."""
    gan, _ = make("mescheder")
    gan = dataclasses.replace(gan, generator=Stretched((8, 8, 1)), latent_dim=4)
    network, _ = gans.init_networks(gan, jax.random.key(0))
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    params = {**network.params, "turn": {"kernel": jnp.float32(turn)}}
    network = network.replace(params=params)
    key = jax.random.key(3)
    found = latents.principal_directions(gan, network, key, 4, samples=20_000)
    expected = turn.T[[1, 3, 2, 0]]
    expected = expected * np.sign(np.sum(expected * found.vectors, axis=1, keepdims=True))
    np.testing.assert_allclose(found.vectors, expected, atol=0.05)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    # Of x + 0.3 |x|, x normal, the variance is 1 + 0.09 (1 - 2 / pi).
    deviation = np.sqrt(1 + 0.09 * (1 - 2 / np.pi))
    np.testing.assert_allclose(found.values, np.array([4, 3, 2, 1]) * deviation, rtol=0.03)


def test_principal_directions_are_no_more_than_the_layer_is_wide(make):
    gan, network = make("mescheder", **{"generator.width": 4, "latent_dim": 16})
    found = latents.principal_directions(gan, network, jax.random.key(0), 8, samples=200)
    assert found.vectors.shape == (4, 16)


def test_principal_directions_of_what_is_computed_anew_are_the_same(make):
    found = []
    for remat in (False, True):
        gan, network = make("sngan", **{"generator.width": 4, "generator.remat": remat})
        found.append(latents.principal_directions(gan, network, jax.random.key(0), 3, samples=50))
    np.testing.assert_array_equal(found[0].vectors, found[1].vectors)


def test_the_layer_of_principal_directions_is_not_affine(make):
    """Of the residual generator the first layers are: dense, shortcut, normalisation."""
    gan, network = make("projection", conditional=True)
    pair = gans.draw_latents(gan, jax.random.key(0), 2)
    layer = latents._first_not_affine(gan, network, pair, jnp.zeros(4, jnp.int32))
    outputs = latents._layer_outputs(gan, network, pair, jnp.zeros(2, jnp.int32), None)
    assert [x.shape for x in outputs[: layer + 1]][:2] == [(2, 4 * 4 * 16), (2, 4, 4, 16)]
    assert layer >= 3


@pytest.mark.parametrize("recipe", ["mescheder", "cgan"])
def test_a_generators_own_images_are_found_again(make, recipe):
    """Beyond what is nearest of random latents by far; and so are latents whose images clip."""
    gan, network = make(recipe, **{"generator.width": 32})
    network = jax.tree.map(lambda x: 2 * x, network)  # images go beyond [-1, 1]
    labels = np.arange(3, dtype=np.int32) if gan.num_classes else None
    wanted = np.asarray(gans.draw_latents(gan, jax.random.key(5), 3))
    targets = latents.render(gan, network, wanted, labels)
    assert (targets == 0).any()
    embed = latents.make_embedding(targets)
    key = jax.random.key(6)
    found = latents.invert(gan, network, embed, targets, labels, key, 200, 4, 50)

    def error(chosen):
        made = latents.render(gan, network, chosen, labels)
        return np.sqrt(np.mean((made / 255.0 - targets / 255.0) ** 2, axis=(1, 2, 3)))

    assert error(wanted).max() == 0
    assert error(found.nearest).min() > 0.1
    assert error(found.latents).max() < 0.03
    pool = np.asarray(gans.draw_latents(gan, key, 50))
    every = [error(np.repeat(pool[i : i + 1], 3, axis=0)) for i in range(50)]
    np.testing.assert_allclose(error(found.nearest), np.min(every, axis=0), atol=1e-3)


def test_an_embeddings_squared_distance_is_the_loss():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 256, (4, 8, 8, 1), np.uint8)

    def look(images):
        sums = jnp.stack([images.mean((1, 2, 3)), images[:, 0, 0, 0]], axis=1)
        return sums, sums

    embed = latents.make_embedding(targets, look)
    first, second = (gans.to_float(jnp.asarray(x)) for x in (targets[:1], targets[1:2]))
    pixels = np.mean((first - second) ** 2)
    features = [np.asarray(look(jnp.float32(x))[0]) for x in (targets[:1], targets[1:2], targets)]
    expected = pixels + 0.1 * np.mean((features[0] - features[1]) ** 2) / np.mean(features[2] ** 2)
    found = np.sum((embed(first) - embed(second)) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_rendering_is_what_the_generator_makes(make, count_compilations):
    gan, network = make("cgan")
    given = gans.draw_latents(gan, jax.random.key(1), 230)
    labels = np.arange(230, dtype=np.int32) % 10
    shown = latents.render(gan, network, given, labels)
    expected = gans.to_uint8(gans.sample(gan, network, given, jnp.asarray(labels)))
    assert shown.dtype == np.uint8
    assert np.abs(shown.astype(int) - np.asarray(expected)).max() <= 1
    nothing = jax.tree.map(lambda x: x * np.nan, network)
    with pytest.raises(FloatingPointError):
        latents.render(gan, nothing, given, labels)

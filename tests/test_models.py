"""Networks: the papers' to the number, shapes, labels, bounds, and what they refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    DISCRIMINATORS,
    GENERATORS,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    R3GANBlock,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
    doublings,
    stage_widths,
)

SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3), (64, 64, 3)]
SMALL = {"width": 8, "widths": (16, 8), "blocks": 1}


def build(network, **fields):
    names = {field.name for field in dataclasses.fields(network)}
    return network(**{k: v for k, v in (SMALL | fields).items() if k in names})


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def numbers_of(network, inputs, labels):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), inputs, labels, train=True))


def test_the_articles_networks():
    latents = jax.random.normal(jax.random.key(0), (2, 100))
    generator = MLPGenerator((28, 28, 1))
    variables = generator.init(jax.random.key(1), latents, None, train=True)
    assert count(variables) == (100 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 784
    images = generator.apply(variables, latents, None, train=True)
    assert images.shape == (2, 28, 28, 1)

    # The same arithmetic in NumPy.
    params, hidden = variables["params"], np.asarray(latents)
    for i in range(3):
        dense = params[f"Dense_{i}"]
        hidden = hidden @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        hidden = hidden if i == 2 else np.where(hidden > 0, hidden, 0.2 * hidden)
    np.testing.assert_allclose(images.reshape(2, 784), hidden, rtol=1e-4, atol=1e-5)

    discriminator = MLPDiscriminator()
    variables = discriminator.init(jax.random.key(2), images, None, train=True)
    assert count(variables) == (784 + 1) * 128 + (128 + 1) * 128 + (128 + 1)
    assert discriminator.apply(variables, images, None, train=True).shape == (2,)


@pytest.mark.parametrize(
    ("num_classes", "in_generator", "in_discriminator"),
    [(0, 20_732_160, 20_683_776), (10, 20_781_952, 21_280_512)],
)
def test_r3gans_published_sizes(num_classes, in_generator, in_discriminator):
    """Of CIFAR-10: Huang et al. 2024, table 5 (20.8 and 21.3 million)."""
    labels = jnp.zeros(2, jnp.int32) if num_classes else None
    generator = R3GANGenerator((32, 32, 3), (768,), num_classes=num_classes)
    assert count(numbers_of(generator, jnp.zeros((2, 64)), labels)) == in_generator
    discriminator = R3GANDiscriminator((768,), num_classes=num_classes)
    assert count(numbers_of(discriminator, jnp.zeros((2, 32, 32, 3)), labels)) == in_discriminator


def test_sngans_published_sizes():
    """Of CIFAR-10, Miyato et al. 2018, table 4, its blocks counted one by one."""
    generator = ResNetGenerator((32, 32, 3))
    block = 2 * (9 * 256 * 256 + 256) + 256 * 256 + 256 + 4 * 256
    expected = 128 * 4096 + 4096 + 3 * block + 2 * 256 + 9 * 256 * 3 + 3
    assert count(numbers_of(generator, jnp.zeros((2, 128)), None)) == expected
    first = 9 * 3 * 128 + 128 + 9 * 128 * 128 + 128 + 3 * 128 + 128
    block = 2 * (9 * 128 * 128 + 128)
    expected = first + block + 128 * 128 + 128 + 2 * block + 128 + 1
    discriminator = ResNetDiscriminator()
    assert count(numbers_of(discriminator, jnp.zeros((2, 32, 32, 3)), None)) == expected


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_generator_fits(name, shape, conditional):
    num_classes, labels = (10, jnp.zeros(2, jnp.int32)) if conditional else (0, None)
    generator = build(GENERATORS[name], shape=shape, num_classes=num_classes)
    latents = jnp.ones((2, 16))
    images, _ = jax.eval_shape(
        lambda: generator.init_with_output(jax.random.key(0), latents, labels, train=True)
    )
    assert images.shape == (2, *shape)
    assert images.dtype == jnp.float32


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_discriminator_fits(name, shape, conditional):
    num_classes, labels = (10, jnp.zeros(2, jnp.int32)) if conditional else (0, None)
    discriminator = build(DISCRIMINATORS[name], num_classes=num_classes)
    examples = jnp.ones((2, *shape))
    logits, _ = jax.eval_shape(
        lambda: discriminator.init_with_output(jax.random.key(0), examples, labels, train=True)
    )
    assert logits.shape == (2,)
    assert logits.dtype == jnp.float32


WAYS = [
    *[("generator", name, way) for name in ("dcgan", "resnet") for way in ("concat", "norm")],
    ("generator", "mlp", None),
    ("generator", "r3gan", None),
    *[
        ("discriminator", name, way)
        for name in ("mlp", "dcgan", "resnet")
        for way in ("concat", "projection", "acgan")
    ],
    ("discriminator", "r3gan", None),
]


@pytest.mark.parametrize(("player", "name", "way"), WAYS)
def test_labels_change_what_a_network_says(player, name, way):
    """But for an auxiliary classifier's logit, which does not look at them; its classes do."""
    networks = GENERATORS if player == "generator" else DISCRIMINATORS
    fields = {"shape": (8, 8, 1), "num_classes": 10} | ({"condition": way} if way else {})
    network = build(networks[name], **fields)
    shape = (4, 16) if player == "generator" else (4, 8, 8, 1)
    inputs = jax.random.normal(jax.random.key(0), shape)
    labels = jnp.array([0, 1, 2, 3])
    variables = network.init(jax.random.key(1), inputs, labels, train=True)
    variables.pop("auxiliary", None)
    # Away from where scales of normalisation are one in every class, and blocks the identity.
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), variables.pop("params")
    )

    def apply(labels):
        kept = [*variables, "auxiliary"]
        return network.apply(
            {"params": params, **variables}, inputs, labels, train=False, mutable=kept
        )

    outputs, said = apply(labels)
    others, _ = apply(labels.at[0].set(7))
    changed = jnp.abs(outputs - others).reshape(4, -1).max(1) > 1e-6
    assert list(changed) == [way != "acgan", False, False, False]
    assert ("auxiliary" in said) == (way == "acgan")
    if way == "acgan":
        assert said["auxiliary"]["class_logits"].shape == (4, 10)


def test_without_labels_there_is_no_parameter_for_them():
    for networks, shape in ((GENERATORS, (2, 16)), (DISCRIMINATORS, (2, 8, 8, 1))):
        for network in networks.values():
            variables = numbers_of(build(network, shape=(8, 8, 1)), jnp.zeros(shape), None)
            names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(variables)]
            assert not [name for name in names if "Embed" in name]


NORMS = [("mlp", "none"), ("mlp", "spectral"), ("r3gan", None)]
NORMS += [(name, norm) for name in ("dcgan", "resnet") for norm in ("none", "layer", "spectral")]


@pytest.mark.parametrize(("name", "norm"), NORMS)
def test_a_penalty_can_look_through_what_treats_images_one_by_one(name, norm):
    """Its gradient is finite, and an image's logit does not depend on its neighbours."""
    network = build(DISCRIMINATORS[name], **({"norm": norm} if norm else {}))
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    variables = network.init(jax.random.key(1), images, None, train=True)

    def logits(params, images):
        kept = {name: value for name, value in variables.items() if name != "params"}
        apply = network.apply({"params": params, **kept}, images, None, train=True, mutable=[*kept])
        return apply[0]

    @jax.jit
    def penalty(params):
        slope = jax.grad(lambda x: logits(params, x).sum())(images)
        return jnp.square(slope).sum()

    params = variables["params"]
    gradient = jax.grad(penalty)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    alone = logits(params, images[:1])
    np.testing.assert_allclose(alone, logits(params, images)[:1], rtol=1e-4, atol=1e-5)
    jitted = jax.jit(logits)(params, images)
    np.testing.assert_allclose(jitted, logits(params, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [MLPDiscriminator(16, norm="spectral"),
                                     DCGANDiscriminator(16, norm="spectral", condition="projection"),
                                     ResNetDiscriminator(16)])  # fmt: skip
def test_spectral_normalisation_finds_the_largest_singular_value(network):
    """After a warm-up within 1% of NumPy's, of every kernel and embedding."""
    network = dataclasses.replace(network, num_classes=5)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    labels = jnp.array([0, 1])
    variables = network.init(jax.random.key(1), images, labels, train=True)
    params, spectral = variables["params"], variables["spectral"]
    assert set(variables) == {"params", "spectral"}  # and no batch statistics

    @jax.jit
    def warm_up(spectral):
        given = {"params": params, "spectral": spectral}
        return network.apply(given, images, labels, train=True, mutable=["spectral"])[1]

    for _ in range(100):
        spectral = warm_up(spectral)["spectral"]
    kernels = {
        jax.tree_util.keystr(path): np.asarray(leaf).reshape(-1, leaf.shape[-1])
        for path, leaf in jax.tree.leaves_with_path(params)
        if leaf.ndim > 1
    }
    sigmas = {
        jax.tree_util.keystr(path): float(leaf)
        for path, leaf in jax.tree.leaves_with_path(spectral)
        if "sigma" in jax.tree_util.keystr(path)
    }
    assert len(sigmas) == len(kernels) >= 3
    expected = [np.linalg.svd(kernel, compute_uv=False)[0] for kernel in kernels.values()]
    np.testing.assert_allclose(sorted(sigmas.values()), sorted(expected), rtol=0.01)
    # Without training nothing moves.
    given = {"params": params, "spectral": spectral}
    _, still = network.apply(given, images, labels, train=False, mutable=["spectral"])
    jax.tree.map(np.testing.assert_array_equal, still["spectral"], spectral)


def test_a_spectrally_normalised_discriminator_is_lipschitz():
    """Each layer's norm is 1, and leaky ReLU's: no pair of images is told apart by more."""
    network = MLPDiscriminator(32, norm="spectral")
    images = jax.random.normal(jax.random.key(0), (64, 4, 4, 1))
    variables = network.init(jax.random.key(1), images, None, train=True)
    params = jax.tree.map(lambda x: 5 * x, variables["params"])
    spectral = variables["spectral"]
    for _ in range(50):
        given = {"params": params, "spectral": spectral}
        logits, moved = network.apply(given, images, None, train=True, mutable=["spectral"])
        spectral = moved["spectral"]
    slopes = jax.vmap(
        jax.grad(lambda x: network.apply(given, x[None], None, train=False)[0])
    )(images)  # fmt: skip
    norms = jnp.sqrt(jnp.square(slopes).sum((1, 2, 3)))
    assert float(norms.max()) <= 1.01
    assert float(norms.max()) > 0.05


def test_r3gans_block_begins_as_the_identity():
    block = R3GANBlock(expansion=2, group_size=16, depth=8, dtype=jnp.float32)
    images = jax.random.normal(jax.random.key(0), (2, 7, 7, 64))
    variables = block.init(jax.random.key(1), images)
    np.testing.assert_array_equal(block.apply(variables, images), images)
    params = variables["params"]
    assert set(params["Conv_0"]) == set(params["Conv_1"]) == {"kernel", "bias"}
    assert set(params["Conv_2"]) == {"kernel"}
    assert params["Conv_1"]["kernel"].shape == (3, 3, 16, 128)  # in 8 groups
    for name, fan_in in (("Conv_0", 64), ("Conv_1", 9 * 16)):
        std = np.sqrt(2 / 1.04) * 8**-0.25 / np.sqrt(fan_in)
        assert float(params[name]["kernel"].std()) == pytest.approx(std, rel=0.05)
        np.testing.assert_array_equal(params[name]["bias"], 0)


@pytest.mark.slow
def test_r3gans_other_layers_begin_with_gain_1():
    generator = R3GANGenerator((28, 28, 3), (64, 32), num_classes=10)
    latents = jax.random.normal(jax.random.key(0), (256, 64))
    labels = jnp.zeros(256, jnp.int32)
    params = generator.init(jax.random.key(1), latents, labels, train=True)["params"]
    assert params["basis"].shape == (7, 7, 64)  # 28 is 7 doubled twice
    assert float(params["basis"].std()) == pytest.approx(1, rel=0.05)
    assert float(params["Dense_0"]["kernel"].std()) == pytest.approx(128**-0.5, rel=0.05)
    assert float(params["Embed_0"]["embedding"].std()) == pytest.approx(10**-0.5, rel=0.1)
    assert float(params["Conv_0"]["kernel"].std()) == pytest.approx(1 / 8, rel=0.05)  # 64 to 32
    discriminator = R3GANDiscriminator((64, 32), num_classes=10)
    images = generator.apply({"params": params}, latents, labels, train=True)
    params = discriminator.init(jax.random.key(2), images, labels, train=True)["params"]
    assert params["head"].shape == (7, 7, 64)
    assert float(params["head"].std()) == pytest.approx(1 / 7, rel=0.05)
    assert params["Dense_0"]["kernel"].shape == (64, 64)
    embedding = params["Embed_0"]["embedding"]
    assert float(embedding.std()) == pytest.approx(1 / 8 / 10**0.5, rel=0.1)


def test_r3gan_keeps_its_first_stage_in_float32():
    generator = R3GANGenerator((16, 16, 1), (16, 8), blocks=1, dtype=jnp.bfloat16)
    latents = jnp.ones((2, 8))
    variables = generator.init(jax.random.key(0), latents, None, train=True)
    _, captured = generator.apply(
        variables, latents, None, train=True, capture_intermediates=True, mutable=["intermediates"]
    )
    blocks = captured["intermediates"]
    dtypes = [blocks[f"R3GANBlock_{i}"]["__call__"][0].dtype for i in range(3)]
    assert dtypes == [jnp.float32, jnp.bfloat16, jnp.bfloat16]


def test_conditional_batch_normalisation_begins_as_the_plain_one():
    latents = jax.random.normal(jax.random.key(0), (4, 16))
    plain = DCGANGenerator((8, 8, 1), 8)
    variables = plain.init(jax.random.key(1), latents, None, train=True)
    conditional = DCGANGenerator((8, 8, 1), 8, condition="norm", num_classes=3)
    labels = jnp.array([0, 1, 2, 0])
    given = conditional.init(jax.random.key(1), latents, labels, train=True)
    for name in ("Dense_0", "Conv_0"):
        given["params"][name] = variables["params"][name]
    outputs = conditional.apply(given, latents, labels, train=True, mutable=["batch_stats"])[0]
    expected = plain.apply(variables, latents, None, train=True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_projection_is_the_features_product_with_the_labels_embedding():
    network = MLPDiscriminator(8, depth=1, condition="projection", num_classes=3)
    images = jax.random.normal(jax.random.key(0), (4, 2, 2, 1))
    labels = jnp.array([0, 2, 1, 2])
    params = network.init(jax.random.key(1), images, labels, train=True)["params"]
    hidden = np.asarray(images).reshape(4, 4) @ np.asarray(params["Dense_0"]["kernel"])
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    expected = hidden @ np.asarray(params["Dense_1"]["kernel"])[:, 0]
    expected += (hidden * np.asarray(params["Embed_0"]["embedding"])[np.asarray(labels)]).sum(1)
    found = network.apply({"params": params}, images, labels, train=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (MLPDiscriminator(norm="batch"), "discriminator.norm='batch' does not exist: none or"),
        (DCGANDiscriminator(norm="x"), "discriminator.norm='x' does not exist"),
        (ResNetDiscriminator(pool="max"), "discriminator.pool='max' does not exist: sum or mean"),
        (ResNetDiscriminator(condition="norm"), "discriminator.condition='norm' does not exist"),
        (R3GANDiscriminator(widths=()), r"widths=\(\) must be one positive number"),
        (R3GANDiscriminator(widths=(8, 8, 8)), "are of 3 stages, and there are 2"),
        (DCGANDiscriminator(minibatch_stddev=2), "does not divide a batch of 3"),
    ],
)
def test_what_discriminators_refuse(network, words):
    with pytest.raises(ValueError, match=words) as error:
        numbers_of(network, jnp.zeros((3, 8, 8, 1)), None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("network", [DCGANGenerator, ResNetGenerator, R3GANGenerator])
def test_what_generators_refuse(network):
    with pytest.raises(ValueError, match="this data set has points"):
        numbers_of(network((2,)), jnp.zeros((2, 4)), None)
    if "condition" in network.__dataclass_fields__:
        with pytest.raises(ValueError, match="generator.condition='x' does not exist"):
            numbers_of(network((8, 8, 1), condition="x"), jnp.zeros((2, 4)), None)


def test_the_last_of_the_widths_is_repeated():
    assert stage_widths((64,), 3) == [64, 64, 64]
    assert stage_widths((768, 384), 4) == [768, 384, 384, 384]


@pytest.mark.parametrize(("size", "times"), [(8, 1), (28, 2), (32, 3), (64, 4), (12, 1), (56, 3)])
def test_doublings(size, times):
    assert doublings(size) == times
    assert 4 <= size / 2**times <= 7


@pytest.mark.parametrize("size", [1, 7, 18, 27, 33])
def test_doublings_refuses_what_cannot_be_made(size):
    with pytest.raises(ValueError, match=f"{size}x{size}"):
        doublings(size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "r3gan"])
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_block_that_is_computed_anew_keeps_less(player, name):
    """The same parameters, outputs, statistics and gradients; two blocks and more are not kept."""
    fields = {"num_classes": 3, "blocks": 3, "widths": (16, 16)}
    if player == "generator":
        inputs, build_one = jnp.ones((8, 10)), build(GENERATORS[name], shape=(16, 16, 3), **fields)
    else:
        inputs, build_one = jnp.ones((8, 16, 16, 3)), build(DISCRIMINATORS[name], **fields)
    inputs *= jax.random.normal(jax.random.key(1), inputs.shape)
    labels = jnp.arange(8) % 3
    found = []
    for remat in (False, True):
        network = dataclasses.replace(build_one, remat=remat)
        init = jax.jit(network.init, static_argnames="train")
        variables = init(jax.random.key(0), inputs, labels, train=True)

        def look(variables, network=network):
            mutable = [kind for kind in variables if kind != "params"]
            outputs, moved = network.apply(variables, inputs, labels, train=True, mutable=mutable)
            return jnp.sum(outputs**2), moved

        pull = jax.eval_shape(lambda given, look=look: jax.vjp(look, given)[1], variables)
        kept = sum(leaf.size for leaf in jax.tree.leaves(pull))
        values = jax.jit(jax.value_and_grad(look, has_aux=True))(variables)
        found.append((kept, (variables, values)))
    (usual, expected), (less, ours) = found
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    # Sums of numbers as large are rounded; a bias before a normalisation has nothing else.
    of_all = max(float(jnp.abs(y).max()) for y in jax.tree.leaves(expected))
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        largest = max(1.0, float(jnp.abs(y).max()), of_all / 100)
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * largest)
    assert less < 0.6 * usual

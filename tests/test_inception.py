"""Inception-v3 against torch-fidelity's, block by block, and the resizings against their owners'."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import import_torch_fidelity
from PIL import Image

from inception import RESIZINGS, InceptionV3, convert, torch_shapes

torch = pytest.importorskip("torch")


fidelity = import_torch_fidelity("feature_extractor_inceptionv3")
RESIZE = {name: jax.jit(function) for name, function in RESIZINGS.items()}
SHAPES = [(2, 32, 32, 3), (2, 28, 28, 1), (1, 299, 299, 3), (1, 480, 317, 3), (2, 1, 640, 3)]


def random_images(shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def nchw(images):
    """As torch takes them: grey repeated, channels first."""
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    return torch.tensor(np.moveaxis(images, -1, 1))


def nhwc(tensor):
    return np.moveaxis(tensor.numpy(), 1, -1)


def relative_error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.fixture(scope="module")
def network():
    """torch-fidelity's network, with random weights and running statistics instead of a download."""
    extractor = fidelity.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(extractor, "load_state_dict", lambda *_, **__: None)
        network = extractor("inception", ["2048", "logits_unbiased", "logits"])
    generator = torch.Generator().manual_seed(0)

    def normal(tensor, mean, deviation):
        tensor.normal_(mean, deviation, generator=generator)

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # keeps the scale of activations
            normal(module.weight, 0, (2 / module.weight[0].numel()) ** 0.5)
        elif isinstance(module, torch.nn.BatchNorm2d):
            normal(module.bias, 0.1, 0.2)
            normal(module.running_mean, 0, 0.2)
            module.weight.uniform_(0.7, 1.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    normal(network.fc.weight, 0, 0.05)
    normal(network.fc.bias, 0, 1)
    return network


@pytest.fixture(scope="module")
def tensors(network):
    return {key: tensor.numpy() for key, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def variables(tensors):
    return convert(tensors)


@pytest.fixture(scope="module")
def apply():
    """The network with the output of every module, of images already resized and scaled."""

    @jax.jit
    def apply(variables, images):
        with jax.default_matmul_precision("highest"):
            return InceptionV3().apply(variables, images, capture_intermediates=True)

    return apply


def test_the_keys_are_torch_fidelitys(tensors):
    expected = {k: v.shape for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    assert torch_shapes() == expected
    assert len(expected) == 94 * 5 + 2


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_every_block_from_uint8_images(network, variables, apply, shape):
    images = random_images(shape)
    theirs, hooks = {}, []
    for name, module in network.named_children():
        hook = module.register_forward_hook(
            lambda _, __, output, name=name: theirs.__setitem__(name, output)
        )
        hooks.append(hook)
    features, logits_without_bias, logits = network(nchw(images))
    for hook in hooks:
        hook.remove()
    ours, captured = apply(variables, RESIZE["tensorflow"](images))
    captured = captured["intermediates"]

    blocks = [name for name in theirs if name.startswith(("Conv2d", "Mixed"))]
    assert len(blocks) == 5 + 11  # and each pool lies before one of them
    for name in blocks:
        (block,) = captured[name]["__call__"]
        assert 0.05 < float(theirs[name].std()) < 20, name  # neither vanished nor exploded
        assert relative_error(block, nhwc(theirs[name])) < 1e-4, name
    assert ours.features.shape == (shape[0], 2048)
    assert relative_error(ours.features, features) < 1e-4
    assert relative_error(ours.logits, logits) < 1e-4
    assert relative_error(ours.logits_without_bias, logits_without_bias) < 1e-4
    spread = features.std(0).norm() / features.norm()
    assert spread > 1e-3  # images are told apart: the agreement is not of biases alone


@pytest.mark.parametrize("shape", SHAPES)
def test_tensorflow_resizing_is_torch_fidelitys(shape):
    images = random_images(shape)
    resize = fidelity.interpolate_bilinear_2d_like_tensorflow1x
    theirs = (resize(nchw(images).float(), (299, 299), align_corners=False) - 128) / 128
    np.testing.assert_allclose(RESIZE["tensorflow"](images), nhwc(theirs), atol=1e-6)


def test_tensorflow_resizing_by_hand():
    """Row i looks at i * 2 / 299, without half a pixel, and the last one is repeated."""
    images = np.array([0, 200], np.uint8).reshape(1, 1, 2, 1)
    row = np.minimum(np.arange(299) * 2 / 299, 1) * 200
    expected = np.broadcast_to((row[:, None] - 128) / 128, (299, 299, 3))
    np.testing.assert_allclose(RESIZE["tensorflow"](images)[0], expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_pytorch_fid_resizing_is_torchs(shape):
    images = random_images(shape)
    theirs = torch.nn.functional.interpolate(
        nchw(images).float() / 255, (299, 299), mode="bilinear", align_corners=False
    )
    # Where torch was compiled without fused products, its positions are off by 1e-5 of a pixel.
    np.testing.assert_allclose(RESIZE["pytorch_fid"](images), nhwc(2 * theirs - 1), atol=5e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_clean_fid_resizing_is_pillows(shape):
    images = random_images(shape)
    theirs = [
        [Image.fromarray(channel).resize((299, 299), Image.Resampling.BICUBIC) for channel in image]
        for image in nchw(images).float().numpy()
    ]
    theirs = np.moveaxis(np.clip(np.array(theirs), 0, 255), 1, -1)
    np.testing.assert_allclose(RESIZE["clean_fid"](images) * 128 + 128, theirs, atol=1e-3)


@pytest.mark.parametrize("name", RESIZE)
def test_resizings_in_common(name):
    resize = RESIZE[name]
    grey = random_images((2, 9, 7, 1))
    resized = resize(grey)
    assert resized.shape == (2, 299, 299, 3)
    assert resized.dtype == jnp.float32
    np.testing.assert_allclose(resized, resize(np.repeat(grey, 3, -1)), atol=2e-6)
    black_and_white = np.stack([np.zeros((5, 400, 3)), np.full((5, 400, 3), 255)])
    resized = resize(black_and_white.astype(np.uint8))
    np.testing.assert_allclose(resized[0], -1, atol=1e-5)
    np.testing.assert_allclose(resized[1], 1, atol=1e-2)
    for wrong in (grey[0], grey.astype(np.float32), np.zeros((1, 8, 8, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"^images are uint8 \[B, H, W, 1 or 3\], not [^\n]*$"):
            RESIZINGS[name](jnp.asarray(wrong))


def test_convert_names_what_is_wrong(tensors):
    convert({k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")})
    missing = {k: v for k, v in tensors.items() if k != "fc.bias"}
    with pytest.raises(ValueError, match=r"^[^\n]*; missing: fc.bias$"):
        convert(missing)
    unexpected = tensors | {f"AuxLogits.{i}": tensors["fc.bias"] for i in range(9)}
    with pytest.raises(ValueError, match=r"^[^\n]*; unexpected: AuxLogits.0, .* and 6 more$"):
        convert(unexpected)
    torchvisions = tensors | {"fc.bias": np.zeros(1000)}
    with pytest.raises(ValueError, match=r"fc.bias \(1000,\) instead of \(1008,\)$"):
        convert(torchvisions)

"""The convolution maps against XLA's own and each other's gradients; resampling by the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import layers
from layers import (
    FEW,
    Conv,
    average_pool,
    conv,
    downsample,
    grouped_conv,
    kernel_gradient,
    minibatch_stddev,
    repeat_pixels,
    transposed_conv,
    upsample,
)

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
BIG, SMALL, EQUAL, KERNEL, ODD_KERNEL = (
    jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate(
        [(2, 10, 8, 5), (2, 5, 4, 6), (2, 10, 8, 6), (4, 4, 5, 6), (3, 3, 5, 6)]
    )
)
FEW_BIG, FEW_KERNEL, FEW_ODD_KERNEL = BIG[..., :3], KERNEL[:, :, :3], ODD_KERNEL[:, :, :3]
# Stride, inputs, kernel, outputs.
CASES = [
    (2, BIG, KERNEL, SMALL),
    (1, BIG, ODD_KERNEL, EQUAL),
    (1, BIG, KERNEL, EQUAL),
    (2, FEW_BIG, FEW_KERNEL, SMALL),
    (1, FEW_BIG, FEW_ODD_KERNEL, EQUAL),
    (1, BIG, ODD_KERNEL[..., :3], EQUAL[..., :3]),
]


def test_a_kernel_of_one_pixel_in_groups():
    """Each group of channels has a matrix of its own."""
    module = layers.Conv(6, size=1, stride=1, groups=2, use_bias=False)
    inputs = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    outputs, variables = module.init_with_output(jax.random.key(1), inputs)
    kernel = variables["params"]["kernel"][0, 0]
    by_hand = [inputs[..., :2] @ kernel[:, :3], inputs[..., 2:] @ kernel[:, 3:]]
    np.testing.assert_allclose(outputs, np.concatenate(by_hand, axis=-1), rtol=1e-5, atol=1e-6)


@pytest.fixture(params=["whole", "parts"])
def kernel_gradients_form(request, monkeypatch):
    """Both forms of a kernel gradient, whatever the sizes."""
    monkeypatch.setattr(layers, "CACHE", 1 if request.param == "parts" else np.inf)


def xla_conv(inputs, kernel, stride):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (stride, stride), "SAME", dimension_numbers=DIMENSIONS
    )


def xla_transposed_conv(inputs, kernel, stride):
    return jax.lax.conv_transpose(
        inputs, kernel, (stride, stride), "SAME", dimension_numbers=DIMENSIONS,
        transpose_kernel=True,
    )  # fmt: skip


def direct_conv(inputs, kernel, stride, shape):
    """By the definition, in float64."""
    size = len(kernel)
    before = (size - stride) // 2
    after = size - stride - before
    inputs = np.pad(np.asarray(inputs, np.float64), ((0, 0), *[(before, after)] * 2, (0, 0)))
    outputs = np.zeros(shape)
    for i in range(shape[1]):
        for j in range(shape[2]):
            top, left = stride * i, stride * j
            window = inputs[:, top : top + size, left : left + size]
            outputs[:, i, j] = np.einsum("bhwc,hwcd->bd", window, np.asarray(kernel, np.float64))
    return outputs


MAPS = {
    "conv": lambda big, kernel, small, stride: conv(big, kernel, stride),
    "transposed": lambda big, kernel, small, stride: transposed_conv(small, kernel, stride),
    "gradient": lambda big, kernel, small, stride: kernel_gradient(big, small, len(kernel), stride),
}


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize(("size", "stride"), [(4, 2), (3, 1), (4, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("name", MAPS)
def test_a_gpus_form_alone_and_of_members(name, size, stride, channels):
    """Whole numbers, in float32: exactly a CPU's. A kernel a member makes no grouped convolution."""
    rng = np.random.default_rng(0)
    shapes = (2, 4 * stride, 3 * stride, channels), (size, size, channels, 5), (2, 4, 3, 5)
    arrays = [jnp.asarray(rng.integers(-3, 4, (3, *shape)), jnp.float32) for shape in shapes]

    def apply(*arrays):
        return MAPS[name](*arrays, stride)

    expected = jnp.stack([apply(*(array[i] for array in arrays)) for i in range(3)])
    with layers.lowered_for("cuda"):
        alone = jnp.stack([apply(*(array[i] for array in arrays)) for i in range(3)])
        members = jax.jit(jax.vmap(apply)).lower(*arrays)
        same_kernel = jax.vmap(apply, (0, None, 0))(arrays[0], arrays[1][0], arrays[2])
    np.testing.assert_array_equal(alone, expected)
    np.testing.assert_array_equal(members.compile()(*arrays), expected)
    if name != "gradient":
        np.testing.assert_array_equal(same_kernel[0], expected[0])
    if size % stride == 0:
        assert "convolution" not in members.as_text()


@pytest.mark.parametrize(("stride", "big", "kernel", "small"), CASES)
def test_a_gpus_form_of_members_differentiates_twice(stride, big, kernel, small):
    """As a penalty of D's gradient does."""

    def penalty(kernel, big, small):
        slope = jax.grad(lambda x: (jnp.sin(conv(x, kernel, stride)) * small).sum())(big)
        return (slope**2).sum()

    kernels = jnp.stack([kernel, 2 * kernel, -kernel])
    expected = jnp.stack([jax.grad(penalty)(k, big, small) for k in kernels])
    with layers.lowered_for("cuda"):
        found = jax.jit(jax.vmap(jax.grad(penalty), (0, None, None)))(kernels, big, small)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize(("stride", "big", "kernel", "small"), CASES)
def test_values(stride, big, kernel, small):
    expected = direct_conv(big, kernel, stride, small.shape)
    np.testing.assert_allclose(conv(big, kernel, stride), expected, rtol=1e-4, atol=1e-5)
    if stride == 2 or len(kernel) % 2:  # XLA pads an even kernel of stride 1 on the other side
        np.testing.assert_allclose(
            transposed_conv(small, kernel, stride),
            xla_transposed_conv(small, kernel, stride),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize(("stride", "big", "kernel", "small"), CASES)
@pytest.mark.usefixtures("kernel_gradients_form")
def test_the_maps_are_adjoint(stride, big, kernel, small):
    """<conv(x, k), y> = <x, transposed_conv(y, k)> = <k, kernel_gradient(x, y)>."""
    product = pytest.approx(float((conv(big, kernel, stride) * small).sum()), rel=1e-4)
    assert float((big * transposed_conv(small, kernel, stride)).sum()) == product
    gradient = kernel_gradient(big, small, len(kernel), stride)
    assert float((kernel * gradient).sum()) == product


@pytest.mark.parametrize(
    ("ours", "xlas", "inputs", "stride"),
    [
        (conv, xla_conv, (BIG, KERNEL), 2),
        (conv, xla_conv, (BIG, ODD_KERNEL), 1),
        (conv, xla_conv, (BIG, KERNEL), 1),
        (transposed_conv, xla_transposed_conv, (SMALL, KERNEL), 2),
        (transposed_conv, xla_transposed_conv, (EQUAL, ODD_KERNEL), 1),
        (conv, xla_conv, (FEW_BIG, FEW_KERNEL), 2),
        (conv, xla_conv, (FEW_BIG, FEW_ODD_KERNEL), 1),
        (transposed_conv, xla_transposed_conv, (SMALL, FEW_KERNEL), 2),
        (transposed_conv, xla_transposed_conv, (EQUAL, FEW_ODD_KERNEL), 1),
    ],
)
@pytest.mark.usefixtures("kernel_gradients_form")
def test_gradients_of_every_order_are_xlas(ours, xlas, inputs, stride):
    def first(function):
        return jax.grad(lambda x, k: (function(x, k, stride) ** 3).sum(), argnums=(0, 1))

    def second(function):  # as a penalty takes it: the gradient of a gradient's square
        def square(x, k):
            return sum((g**2).sum() for g in first(function)(x, k))

        return jax.grad(square, argnums=(0, 1))

    for order in (first, second):
        for mine, theirs in zip(order(ours)(*inputs), order(xlas)(*inputs)):
            scale = float(jnp.abs(theirs).max())
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(("stride", "big", "kernel", "small"), CASES)
@pytest.mark.usefixtures("kernel_gradients_form")
def test_the_kernel_gradients_own_gradient(stride, big, kernel, small):
    def gradient(x, y):
        return kernel_gradient(x, y, len(kernel), stride)

    # Over a larger step than usual differences of float32 are rounded less.
    check_grads(gradient, (big, small), 2, ["rev"], rtol=1e-2, eps=1e-2)


def form_on_a_cpu(function, *arrays):
    return str(jax.make_jaxpr(function)(*arrays))


@pytest.mark.parametrize("features", [1, 2, 4, 5, 8, 16, 24])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_several_pixels_at_once(size, features):
    """Of rows that so many pixels divide, and of others; to few channels it is a product."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(size, size, 6, features)), jnp.float32)
    for width in (5, 8, 28, 33):
        inputs = jnp.asarray(rng.normal(size=(2, 6, width, 6)), jnp.float32)
        for ours, xlas, k in (
            (conv, xla_conv, kernel),
            (transposed_conv, xla_transposed_conv, kernel.swapaxes(2, 3)),
        ):
            np.testing.assert_allclose(ours(inputs, k, 1), xlas(inputs, k, 1), rtol=1e-4, atol=1e-4)
    for found in (
        form_on_a_cpu(lambda x, k: conv(x, k, 1), inputs, kernel),
        form_on_a_cpu(lambda x, k: transposed_conv(x, k, 1), inputs, kernel.swapaxes(2, 3)),
    ):
        if features > FEW:
            pixels = {5: 4, 8: 4, 16: 2, 24: 1}[features]
            assert f"window_strides=(1, {pixels})" in found
        else:
            assert "conv_general_dilated" not in found


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (5, 1), (4, 2), (2, 2), (6, 3)])
def test_few_channels_are_a_product_on_a_cpu(size, stride, channels):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(size, size, channels, 7)), jnp.float32)
    big = jnp.asarray(rng.normal(size=(2, 4 * stride, 3 * stride, channels)), jnp.float32)
    small = jnp.asarray(rng.normal(size=(2, 4, 3, 7)), jnp.float32)
    for found, arrays in (
        (lambda x, k: conv(x, k, stride), (big, kernel)),
        (lambda y, k: transposed_conv(y, k, stride), (small, kernel)),
    ):
        assert "conv_general_dilated" not in form_on_a_cpu(found, *arrays)
    expected = direct_conv(big, kernel, stride, small.shape)
    np.testing.assert_allclose(conv(big, kernel, stride), expected, rtol=1e-4, atol=1e-4)
    whole = float((expected * small).sum())
    found = float((big * transposed_conv(small, kernel, stride)).sum())
    assert found == pytest.approx(whole, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (4, 2)])
def test_a_product_sums_in_float32(size, stride, platform):
    """In bfloat16 only what comes out is rounded: the error is that of one rounding."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(size, size, 3, 32)), jnp.bfloat16)
    outputs = jnp.asarray(rng.normal(size=(4, 8, 8, 32)), jnp.bfloat16)
    with layers.lowered_for(platform):
        exact = transposed_conv(outputs.astype(jnp.float32), kernel.astype(jnp.float32), stride)
        found = transposed_conv(outputs, kernel, stride)
    assert found.dtype == jnp.bfloat16
    error = jnp.abs(found.astype(jnp.float32) - exact)
    assert bool(jnp.all(error <= 2**-8 * jnp.abs(exact) + 1e-4))


@pytest.mark.parametrize("side", [1, 4, 7, 8, 9])
@pytest.mark.parametrize(("size", "stride"), [(4, 2), (2, 2), (6, 2), (3, 3), (6, 3), (8, 4)])
def test_phases_of_small_images(size, stride, side):
    """Each phase a convolution of its own, up to 8 pixels a side; whole numbers: the same sums."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.integers(-3, 4, (size, size, 32, 5)), jnp.float32)
    outputs = jnp.asarray(rng.integers(-3, 4, (2, side, side, 5)), jnp.float32)
    with layers.lowered_for("cuda"):
        expected = transposed_conv(outputs, kernel, stride)
    np.testing.assert_array_equal(transposed_conv(outputs, kernel, stride), expected)
    found = form_on_a_cpu(lambda y, k: transposed_conv(y, k, stride), outputs, kernel)
    assert found.count("conv_general_dilated[") == (stride**2 if side <= 8 else 1)


def test_vmap_over_kernels():
    kernels = jnp.stack([KERNEL, 2 * KERNEL, -KERNEL])
    stacked = jax.vmap(jax.grad(lambda k: (conv(BIG, k, 2) ** 2).sum()))(kernels)
    for kernel, gradient in zip(kernels, stacked):
        expected = jax.grad(lambda k: (conv(BIG, k, 2) ** 2).sum())(kernel)
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_groups_are_convolved_apart(platform, monkeypatch):
    """Split as on a CPU, and as XLA has it elsewhere: the block-diagonal kernel's convolution."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    inputs, kernel = EQUAL, jax.random.normal(jax.random.key(9), (3, 3, 2, 9))
    full = jnp.zeros((3, 3, 6, 9))
    for group in range(3):
        rows, columns = slice(2 * group, 2 * group + 2), slice(3 * group, 3 * group + 3)
        full = full.at[:, :, rows, columns].set(kernel[..., columns])
    outputs = grouped_conv(inputs, kernel, 1, 3)
    np.testing.assert_allclose(outputs, xla_conv(inputs, full, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_module(transposed):
    inputs, features = (SMALL, 3) if transposed else (BIG, 6)
    module = Conv(features, transposed=transposed)
    params = module.init(jax.random.key(2), inputs)["params"]
    assert jax.tree.map(np.shape, params) == {
        "kernel": (4, 4, *((3, 6) if transposed else (5, 6))),
        "bias": (features,),
    }
    params["bias"] = jnp.arange(float(features))
    expected = (transposed_conv if transposed else conv)(inputs, params["kernel"], 2)
    np.testing.assert_allclose(
        module.apply({"params": params}, inputs), expected + np.arange(features), rtol=1e-5
    )
    plain = Conv(features, transposed=transposed, use_bias=False)
    assert "bias" not in plain.init(jax.random.key(2), inputs)["params"]


def test_a_kernel_of_size_1_is_a_matrix():
    module = Conv(5, size=1, stride=1, use_bias=False)
    variables = module.init(jax.random.key(0), BIG)
    kernel = variables["params"]["kernel"]
    np.testing.assert_allclose(
        module.apply(variables, BIG), xla_conv(BIG, kernel, 1), rtol=1e-4, atol=1e-5
    )


def filtered(images, kernel, pad, step):
    """The outer product of a filter with itself, slid over images with zeros outside."""
    images = np.pad(np.asarray(images, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(images, (4, 4), axis=(1, 2))
    return np.einsum("bhwcij,i,j->bhwc", windows, kernel, kernel)[:, ::step, ::step]


def test_resampling_is_the_filter_of_the_definition():
    kernel = np.array([1, 3, 3, 1]) / 8
    np.testing.assert_allclose(downsample(BIG), filtered(BIG, kernel, 1, 2), rtol=1e-5, atol=1e-6)
    between = np.zeros((2, 20, 16, 5))
    between[:, ::2, ::2] = BIG
    expected = filtered(np.pad(between, ((0, 0), (0, 1), (0, 1), (0, 0))), 2 * kernel, 2, 1)
    np.testing.assert_allclose(upsample(BIG), expected[:, :20, :16], rtol=1e-5, atol=1e-6)
    # Each is four times the other's transpose.
    product = float((downsample(BIG) * SMALL[..., :5]).sum())
    assert float((BIG * upsample(SMALL[..., :5])).sum()) == pytest.approx(4 * product, rel=1e-4)


def test_pooling_and_repeating():
    pooled = average_pool(BIG)
    assert pooled.shape == (2, 5, 4, 5)
    np.testing.assert_allclose(pooled[1, 2, 3], BIG[1, 4:6, 6:8].mean((0, 1)), rtol=1e-5)
    np.testing.assert_array_equal(repeat_pixels(BIG)[:, 1::2, ::2], BIG)
    np.testing.assert_allclose(average_pool(repeat_pixels(BIG)), BIG, rtol=1e-6)


def test_minibatch_standard_deviation():
    images = jax.random.normal(jax.random.key(0), (6, 4, 4, 3))
    outputs = np.asarray(minibatch_stddev(images, 2))
    np.testing.assert_array_equal(outputs[..., :3], images)
    for first in range(3):  # images 0 and 3, 1 and 4, 2 and 5
        expected = np.std(np.asarray(images)[[first, first + 3]], axis=0).mean()
        for i in (first, first + 3):
            np.testing.assert_allclose(outputs[i, ..., 3], expected, rtol=1e-4)
    whole = minibatch_stddev(images, 100)  # a smaller batch is one group
    np.testing.assert_allclose(whole[..., 3], np.std(images, axis=0).mean(), rtol=1e-4)
    equal = functools.partial(minibatch_stddev, group_size=2)
    assert np.isfinite(jax.grad(lambda x: equal(x).sum())(jnp.ones_like(images))).all()
    with pytest.raises(ValueError, match="minibatch_stddev=4 does not divide a batch of 6"):
        minibatch_stddev(images, 4)

"""The three convolution maps against XLA's own, and against each other's gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from layers import Conv, conv, kernel_gradient, transposed_conv

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
BIG, SMALL, KERNEL = (
    jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate([(2, 10, 8, 3), (2, 5, 4, 6), (4, 4, 3, 6)])
)


def xla_conv(inputs, kernel):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (2, 2), "SAME", dimension_numbers=DIMENSIONS
    )


def xla_transposed_conv(inputs, kernel):
    return jax.lax.conv_transpose(
        inputs, kernel, (2, 2), "SAME", dimension_numbers=DIMENSIONS, transpose_kernel=True
    )


def direct_conv(inputs, kernel):
    """By the definition, in float64."""
    inputs = np.pad(np.asarray(inputs, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    outputs = np.zeros(SMALL.shape)
    for i in range(SMALL.shape[1]):
        for j in range(SMALL.shape[2]):
            window = inputs[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
            outputs[:, i, j] = np.einsum("bhwc,hwcd->bd", window, np.asarray(kernel, np.float64))
    return outputs


def test_values():
    np.testing.assert_allclose(conv(BIG, KERNEL), direct_conv(BIG, KERNEL), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        transposed_conv(SMALL, KERNEL), xla_transposed_conv(SMALL, KERNEL), rtol=1e-4, atol=1e-5
    )


def test_the_maps_are_adjoint():
    """<conv(x, k), y> = <x, transposed_conv(y, k)> = <k, kernel_gradient(x, y)>."""
    product = float((conv(BIG, KERNEL) * SMALL).sum())
    assert float((BIG * transposed_conv(SMALL, KERNEL)).sum()) == pytest.approx(product, rel=1e-4)
    assert float((KERNEL * kernel_gradient(BIG, SMALL, 4)).sum()) == pytest.approx(
        product, rel=1e-4
    )


@pytest.mark.parametrize(
    ("ours", "xlas", "inputs"),
    [
        (conv, xla_conv, (BIG, KERNEL)),
        (transposed_conv, xla_transposed_conv, (SMALL, KERNEL)),
    ],
)
def test_gradients_of_every_order_are_xlas(ours, xlas, inputs):
    def first(function):
        return jax.grad(lambda x, k: (function(x, k) ** 3).sum(), argnums=(0, 1))

    def second(function):  # as a penalty takes it: the gradient of a gradient's square
        def square(x, k):
            return sum((g**2).sum() for g in first(function)(x, k))

        return jax.grad(square, argnums=(0, 1))

    for order in (first, second):
        for mine, theirs in zip(order(ours)(*inputs), order(xlas)(*inputs)):
            scale = float(jnp.abs(theirs).max())
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * scale)


def test_the_kernel_gradients_own_gradient():
    check_grads(lambda x, y: kernel_gradient(x, y, 4), (BIG, SMALL), 2, ["rev"], rtol=1e-2)


def test_vmap_over_kernels():
    kernels = jnp.stack([KERNEL, 2 * KERNEL, -KERNEL])
    stacked = jax.vmap(jax.grad(lambda k: (conv(BIG, k) ** 2).sum()))(kernels)
    for kernel, gradient in zip(kernels, stacked):
        expected = jax.grad(lambda k: (conv(BIG, k) ** 2).sum())(kernel)
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("transposed", [False, True])
def test_module(transposed):
    inputs, features = (SMALL, 3) if transposed else (BIG, 6)
    module = Conv(features, transposed)
    params = module.init(jax.random.key(2), inputs)["params"]
    assert jax.tree.map(np.shape, params) == {"kernel": (4, 4, 3, 6), "bias": (features,)}
    params["bias"] = jnp.arange(float(features))
    expected = (transposed_conv if transposed else conv)(inputs, params["kernel"])
    np.testing.assert_allclose(
        module.apply({"params": params}, inputs), expected + np.arange(features), rtol=1e-5
    )
    assert (
        "bias"
        not in Conv(features, transposed, use_bias=False).init(jax.random.key(2), inputs)["params"]
    )

"""The blocks against XLA's own."""

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from layers import TransposedConv, transposed_conv


def inputs_and_kernel(height=5, width=4):
    keys = jax.random.split(jax.random.key(0))
    inputs = jax.random.normal(keys[0], (2, height, width, 3))
    return inputs, jax.random.normal(keys[1], (4, 4, 3, 6))


@pytest.mark.parametrize(("height", "width"), [(5, 4), (1, 1), (4, 7)])
def test_transposed_conv_is_xlas(height, width):
    inputs, kernel = inputs_and_kernel(height, width)
    expected = jax.lax.conv_transpose(inputs, kernel, (2, 2), "SAME")
    np.testing.assert_allclose(transposed_conv(inputs, kernel), expected, rtol=1e-5, atol=1e-5)


def test_transposed_conv_has_xlas_gradients():
    inputs, kernel = inputs_and_kernel()

    def gradients(conv):
        return jax.grad(lambda x, k: (conv(x, k) ** 3).sum(), argnums=(0, 1))(inputs, kernel)

    xla = gradients(lambda x, k: jax.lax.conv_transpose(x, k, (2, 2), "SAME"))
    for ours, theirs in zip(gradients(transposed_conv), xla):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    check_grads(transposed_conv, (inputs, kernel), order=2, modes=["rev"], rtol=1e-2)


def test_transposed_conv_module():
    inputs, _ = inputs_and_kernel()
    module = TransposedConv(6)
    variables = module.init(jax.random.key(2), inputs)
    shapes = jax.tree.map(np.shape, variables["params"])
    assert shapes == {"kernel": (4, 4, 3, 6), "bias": (6,)}
    variables = {"params": {**variables["params"], "bias": jax.numpy.arange(6.0)}}
    expected = transposed_conv(inputs, variables["params"]["kernel"]) + np.arange(6.0)
    np.testing.assert_allclose(module.apply(variables, inputs), expected, rtol=1e-6)

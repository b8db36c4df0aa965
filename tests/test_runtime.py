"""The process: what it keeps (compiled programs are in tests/test_train.py), how XLA multiplies."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT

PAGE_FAULTS = """
import resource
import sys

import jax
import jax.numpy as jnp
import runtime

if sys.argv[1] == "kept":
    runtime.keep_memory()
step = jax.jit(lambda x: x + 1)
numbers = jnp.zeros(2**21)  # 8 MiB
for _ in range(3):
    step(numbers).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step(numbers).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

MULTIPLIED = """
import jax
import jax.numpy as jnp
import runtime
import train  # what an entry point imports runs nothing before

def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()

runtime.use_eigen()
images, kernel = jnp.ones((32, 14, 14, 64)), jnp.ones((4, 4, 64, 128))
convolve = lambda *x: jax.lax.conv_general_dilated(
    *x, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
)
matrix = jnp.ones((512, 512))
both = compiled(convolve, images, kernel) + compiled(jnp.matmul, matrix, matrix)
print("by YNNPACK" if "ynn" in both else "by Eigen")
"""


@pytest.mark.parametrize(
    "flag", ["", "--xla_cpu_experimental_ynn_fusion_type=+LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"]
)
def test_products_are_eigens_where_the_user_says_nothing(flag):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": flag}
    outcome = subprocess.run(
        [sys.executable, "-c", MULTIPLIED],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert outcome.stdout.strip() == ("by YNNPACK" if flag else "by Eigen")


@pytest.mark.skipif(
    sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc"
)
def test_memory_is_kept_from_call_to_call():
    def page_faults(how: str, **settings: str) -> int:
        environment = {k: x for k, x in os.environ.items() if not k.startswith("MALLOC_")}
        environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **settings}
        words = [sys.executable, "-c", PAGE_FAULTS, how]
        outcome = subprocess.run(
            words, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return int(outcome.stdout)

    pages = 20 * 2**23 // os.sysconf("SC_PAGE_SIZE")
    assert page_faults("kept") < pages / 4
    own_settings = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}  # every buffer a mapping of its own
    if page_faults("usual", **own_settings) > pages / 2:  # huge pages for all would make them few
        assert page_faults("kept", **own_settings) > pages / 2

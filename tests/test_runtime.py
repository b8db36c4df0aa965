"""The process: what it keeps (compiled programs are in tests/test_train.py), how XLA multiplies."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
from conftest import ROOT

needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc"
)
PAGE_FAULTS = """
import os
import resource
import sys

os.sched_setaffinity(0, range(os.cpu_count()))  # XLA has a thread a core
import jax
import jax.numpy as jnp
import runtime

how, what = sys.argv[1:]
runtime.use_eigen()
if how == "kept":
    runtime.keep_memory()
if what == "convolution":
    kernel = jnp.ones((4, 4, 64, 128))
    numbers = jnp.ones((256, 14, 14, 64))
    dimensions = ("NHWC", "HWIO", "NHWC")
    step = jax.jit(
        lambda x: jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=dimensions)
    )
else:
    numbers = jnp.zeros(int(what))
    step = jax.jit(lambda x: x + 1)
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


def words_of(script: str, *arguments: str, **settings: str) -> str:
    """What a script prints in a process of its own, where glibc's settings are these alone."""
    environment = {k: x for k, x in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **settings}
    words = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        words, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "flag", ["", "--xla_cpu_experimental_ynn_fusion_type=+LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"]
)
def test_products_are_eigens_where_the_user_says_nothing(flag):
    by = words_of(MULTIPLIED, XLA_FLAGS=flag)
    assert by == ("by YNNPACK" if flag else "by Eigen")


@needs_glibc
@pytest.mark.parametrize("size", [2**21, 2**25])  # 128 MiB: more than a heap of a thread
def test_memory_is_kept_from_call_to_call(size):
    def page_faults(how: str, **settings: str) -> int:
        return int(words_of(PAGE_FAULTS, how, str(size), **settings))

    pages = 20 * 4 * size / os.sysconf("SC_PAGE_SIZE")
    assert page_faults("kept") < pages / 4
    own_settings = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}  # every buffer a mapping of its own
    if page_faults("usual", **own_settings) > pages / 2:  # huge pages for all would make them few
        assert page_faults("kept", **own_settings) > pages / 2


@needs_glibc
def test_threads_keep_what_they_pack():
    """Beside other work a thread may begin to pack after the first calls: then another process."""
    faults = (int(words_of(PAGE_FAULTS, "kept", "convolution")) for _ in range(4))
    assert any(num < 1000 for num in faults)  # 480 to 11,000 without


def test_calls_ahead_stay_where_an_accelerator_may_be(tmp_path):
    def alone(platforms: str, plugin: str | None) -> bool:
        folder = tmp_path / str(plugin)
        folder.mkdir(exist_ok=True)
        if plugin:
            (folder / plugin).mkdir(exist_ok=True)
        script = "import runtime\nprint(runtime._has_cpu_alone())"
        path = f"{ROOT}:{folder}"
        return words_of(script, JAX_PLATFORMS=platforms, PYTHONPATH=path) == "True"

    assert alone("cpu", "jax_plugins")
    assert not alone("cuda,cpu", None)
    if not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu"))):
        assert alone("", None)
    assert not alone("", "jax_plugins")
    assert not alone("", "libtpu")

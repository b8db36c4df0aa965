"""An entry point's process: what XLA is told, what is kept between steps and for the next start."""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import sys

import jax
from absl import logging

import data

PROGRAMS_KEPT = 2**30  # bytes; the least recently used go first
MEMORY_KEPT = 2**31 - 2**24  # bytes; glibc counts in a C int
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt, in glibc's malloc.h
YNNPACK = "--xla_cpu_experimental_ynn_fusion_type"


def keep_memory() -> None:
    """Has glibc keep the memory that is freed, in huge pages where the system lets it.

    XLA allocates a step's buffers anew at every call. By default the C library gives large ones
    back, and the system zeroes them again, page by page: a fifth of R3GAN's step on a CPU.
    A single arena would keep them all, but makes small allocations slow once XLA has compiled. The
    arenas of further threads cannot have more than 64 MB in one piece, a heap: that is mapped anew
    each time. So programs on a CPU run in the thread that calls them, not in one of XLA's, unless
    an accelerator may be there, which has to be called ahead.
    Does nothing with another C library, or where the user has MALLOC_ or GLIBC_TUNABLES settings.
    """
    own_settings = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if not sys.platform.startswith("linux") or own_settings:
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    if _has_cpu_alone():
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    # What is freed here stays reserved, not yet taken: the heap's next so many bytes.
    libc.malloc.restype = ctypes.c_void_p
    start = libc.malloc(ctypes.c_size_t(MEMORY_KEPT))
    if start:
        page = 2**21
        first, last = -(-start // page) * page, (start + MEMORY_KEPT) // page * page
        size = ctypes.c_size_t(last - first)
        libc.madvise(ctypes.c_void_p(first), size, mmap.MADV_HUGEPAGE)
        libc.free(ctypes.c_void_p(start))


def _has_cpu_alone() -> bool:
    """Whether JAX, before it starts, can find a CPU alone: it was told so, or has no plugin."""
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms:
        return platforms == "cpu"
    return not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def use_eigen() -> None:
    """Has XLA convolve and multiply matrices by Eigen on a CPU, not by YNNPACK; before any is run.

    What each takes is in docs/benchmarks.md. XLA ends a process for a flag that it does not know,
    so a JAX newer than those measured keeps its own choice, as does a user who has set the flag.
    """
    if jax.__version_info__ < (0, 13) and YNNPACK not in os.environ.get("XLA_FLAGS", ""):
        kinds = ("INDIVIDUAL_CONVOLUTION", "INDIVIDUAL_DOT")
        _add_flag(f"{YNNPACK}=" + ",".join(f"-LIBRARY_FUSION_TYPE_{kind}" for kind in kinds))


def be_deterministic() -> None:
    """Has XLA take operations on a GPU alone that give the same bits each time; before any is run.

    Among them are slower ones, and which of a convolution's algorithms is the fastest is not tried
    out: that depends on the moment. On a CPU the bits are the same without.
    """
    _add_flag("--xla_gpu_deterministic_ops=true")


def _add_flag(flag: str) -> None:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def keep_programs() -> None:
    """Has JAX keep compiled programs in the user's cache folder, so that the next start is quicker.

    They are code, so the folder must be the user's own. JAX_COMPILATION_CACHE_DIR names another,
    and with JAX_ENABLE_COMPILATION_CACHE=false nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = data.cache_folder() / "programs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        logging.warning("compiled programs are not kept: %s: %s", folder, error.strerror)
        return
    if os.name == "posix" and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        logging.warning("compiled programs are not kept: others can write to %s", folder)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", PROGRAMS_KEPT)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

"""Fixtures: configs to train for a moment, and the entry points called as from a shell."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

import cli
import devices
import gan as gans

ROOT = Path(__file__).parent.parent
jax.config.update("jax_num_cpu_devices", 8)  # for meshes
jax.config.update("jax_enable_compilation_cache", False)  # in this process; a command's may
worker = os.environ.get("PYTEST_XDIST_WORKER")
usual_flags = os.environ.get("XLA_FLAGS", "")
if worker:  # slower programs, compiled in a half to a quarter of the time; alone tests do without
    quick = "--xla_backend_optimization_level=0"
    if jax.__version_info__ < (0, 11):
        quick += " --xla_cpu_use_fusion_emitters=false"  # an unknown flag ends a newer one
    os.environ["XLA_FLAGS"] = f"{quick} {usual_flags}"
if worker and hasattr(os, "sched_setaffinity"):  # a core each: XLA's threads would fight for all
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
os.chdir(ROOT)  # commands name configs relative to it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow ones first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def import_torch_fidelity(module: str) -> ModuleType:
    """A module of torch-fidelity; torchvision, of which no test needs a thing, need not fit torch."""
    if not all(map(importlib.util.find_spec, ("torch", "torch_fidelity"))):
        pytest.skip("torch-fidelity is not installed", allow_module_level=True)
    kinds = ("", ".datasets", ".io", ".models", ".transforms", ".transforms.functional")
    with pytest.MonkeyPatch.context() as patch:
        for kind in kinds:
            patch.setitem(sys.modules, f"torchvision{kind}", MagicMock())
        return importlib.import_module(f"torch_fidelity.{module}")


def import_script(name: str, place: str = "studies") -> ModuleType:
    """A study or benchmark without its flags: many of these commands have flags of one name."""
    folder = ROOT / place
    own = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', (folder / f"{name}.py").read_text())
    hidden = {flag: flags.FLAGS[flag] for flag in own if flag in flags.FLAGS}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for flag in hidden:
            delattr(flags.FLAGS, flag)
        module = importlib.import_module(name)
    for flag in own:
        if flag in flags.FLAGS:  # not where the module has been imported before
            delattr(flags.FLAGS, flag)
    for flag, value in hidden.items():
        flags.FLAGS[flag] = value
    return module


def run_study(name: str, *words: str) -> subprocess.CompletedProcess:
    """`python studies/NAME.py WORDS`: half its time it compiles, and half what is compiled runs."""
    balanced = os.environ.get("XLA_FLAGS", "").replace(
        "optimization_level=0", "optimization_level=1"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": balanced}
    return subprocess.run(
        [sys.executable, f"studies/{name}.py", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's cache folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def one_device() -> Iterator[None]:
    """Training takes one device, as on a user's CPU, where a test does not ask for `every_device`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "available", lambda: jax.local_devices()[:1])
        yield


@pytest.fixture
def every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available", jax.local_devices)


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """A module's compiled programs go with it: Linux grants a process 65,530 maps, and they fill up.

    The one that gets no more ends without a Python error.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def make_config() -> Callable[..., ConfigDict]:
    """make_config('configs/digits.py:goodfellow', {'optimizer.generator.name': 'sgd'})."""

    def make(path: str = "configs/digits.py", changes: dict | None = None) -> ConfigDict:
        config = cli.load_config(path)
        config.update_from_flattened_dict(changes or {})
        return config

    return make


def random_network(gan: gans.Gan) -> gans.Network:
    """A generator of random numbers, at no layer 0, whose images are neither grey nor clipped."""
    network, _ = jax.eval_shape(lambda: gans.init_networks(gan, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.float32(rng.normal(size=x.shape) / np.sqrt(x.size / x.shape[-1] + 9)),
        network.params,
    )
    variables = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), network.variables)
    return gans.Network(params, variables)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str
    compilations: int


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """command('train.py', '--config=...'): what the same words in a shell would give."""

    def run(script: str, *arguments: str) -> Outcome:
        module = __import__(script.removesuffix(".py"))
        for name in list(flags.FLAGS):
            if name == "config" or name.startswith("config."):
                delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capsys.readouterr()
        code = 0
        with count_compilations() as count:
            try:
                cli.run(module.main, takes_config=script in ("train.py", "sweep.py"))
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(bool(error.code))
        return Outcome(code, *capsys.readouterr(), len(count))

    return run


class count_compilations(list):
    """A context whose value grows by one at every program that XLA compiles."""

    def __enter__(self) -> count_compilations:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.append(seconds)


@pytest.fixture
def serve_folder() -> Iterator[Callable[[Path], str]]:
    """serve_folder(path): the address, ending in /, at which a server of this machine has it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with contextlib.ExitStack() as stack:

        def serve(root: Path) -> str:
            handler = functools.partial(Quiet, directory=str(root))
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            stack.enter_context(server)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield serve


@pytest.fixture
def tfds_data() -> Path:
    """The folder of prepared real data, where there is one."""
    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not (folder / "mnist").is_dir():
        pytest.skip("MNIST is not prepared here: set TFDS_DATA_DIR to a folder that has it")
    return folder


@pytest.fixture(name="count_compilations")
def count_compilations_fixture() -> type[count_compilations]:
    return count_compilations

"""The house: who imports whom, no dead field, nothing that a user must not need."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from ml_collections import ConfigDict
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import cli
import data
import gan as gans
import starts
import train
from models import DISCRIMINATORS, GENERATORS
from optimizers import OPTIMIZERS

ENTRY_POINTS = {"train", "evaluate", "sample", "sweep"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in [*ROOT.glob("*.py"), *ROOT.glob("configs/*.py")]
}


def may_import() -> dict[str, set[str]]:
    """The table of docs/architecture.md: what each module may import."""
    table: dict[str, set[str]] = {}
    text = (ROOT / "docs/architecture.md").read_text()
    for modules, allowed in re.findall(r"^\| (`.*?) \| (.*?) \|$", text, re.MULTILINE):
        for name in re.findall(r"`([\w/]+)\.py`", modules):
            table[name.replace("/", ".")] = set(re.findall(r"`(\w+)`", allowed))
    return table


def imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_table(module):
    siblings = imports(ast.parse(MODULES[module].read_text())) & (set(MODULES) | {"configs"})
    table = may_import()
    assert module in table, f"{module} has no row in the table of docs/architecture.md"
    assert siblings <= table[module]
    assert not siblings & ENTRY_POINTS - ({"train"} if module == "sweep" else set())


def test_no_tensorflow_and_no_torch():
    for path in MODULES.values():
        assert not imports(ast.parse(path.read_text())) & {"tensorflow", "torch"}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = {line.partition(">")[0].strip() for line in lines if line and line[0] != "#"}
    assert not names & {"tensorflow", "torch"}
    assert "tensorflow" not in sys.modules


def test_nothing_that_is_read_can_be_executed():
    """No eval, no exec, no unpickling, no shell, no archive unpacked where its names say."""
    dangerous = {
        "eval",
        "exec",
        "compile",
        "__import__",
        "system",
        "popen",
        "extract",
        "extractall",
    }
    for path in MODULES.values():
        tree = ast.parse(path.read_text())
        assert not imports(tree) & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, path
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called.rpartition(".")[2] in dangerous:
                allowed = called == "re.compile" or called.endswith(").compile")  # XLA's
                assert allowed, f"{path.name}: {called}"
            arguments = {x.arg: ast.unparse(x.value) for x in node.keywords}
            assert called != "np.load" or arguments.get("allow_pickle") == "False", path
            assert arguments.get("shell", "False") == "False", path


def test_what_ci_installs_is_what_the_requirements_ask_for():
    """Every one is pinned within its range, with hashes."""
    wanted = [
        Requirement(line.partition("#")[0])
        for name in ("", "-test", "-dev")
        for line in (ROOT / f"requirements{name}.txt").read_text().splitlines()
        if line.strip() and line[0] not in "#-"
    ]
    locks = list((ROOT / ".ci").glob("lock-*.txt"))
    assert locks
    for lock in locks:
        text = lock.read_text()
        pins = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
        entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)
        assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)
        for requirement in wanted:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.slow
def test_every_config_field_is_read(make_config, monkeypatch, tmp_path):
    """Training reads each by name; checks, descriptions and snapshots do not count."""
    read: set[str] = set()
    prefixes: dict[int, str] = {}
    kept = []  # so that no other object is at the place of one

    def remember(config: ConfigDict, name: str) -> None:
        path = sys._getframe(2).f_code.co_filename
        if Path(path).parent == ROOT and Path(path).stem in (
            "train",
            "starts",
            "batches",
            "progress",
            "gan",
            "data",
            "scores",
        ):
            read.add(prefixes.get(id(config), "?") + name)

    def watched(page: str, changes: dict[str, object]) -> ConfigDict:
        config = make_config(page, changes)
        kept.append(config)
        prefixes.update({id(part): path for path, part in groups(config)})
        return config

    get_attribute, get_item = ConfigDict.__getattr__, ConfigDict.__getitem__
    items = ConfigDict.items

    def spy_attribute(config, name):
        remember(config, name)
        return get_attribute(config, name)

    def spy_item(config, name):
        remember(config, name)
        return get_item(config, name)

    def spy_items(config, *arguments, **settings):
        for name in config:
            remember(config, name)
        return items(config, *arguments, **settings)

    monkeypatch.setattr(ConfigDict, "__getattr__", spy_attribute)
    monkeypatch.setattr(ConfigDict, "__getitem__", spy_item)
    monkeypatch.setattr(ConfigDict, "items", spy_items)
    monkeypatch.setattr(
        data,
        "tfds_images",
        lambda name, data_dir, resolution, split=None, stream=None: data.digits(None),
    )
    small = {"batch_size": 8, "num_steps": 1, "steps_per_call": 1}
    small |= {"target.metric": "train/d_loss", "decay_images": 8}
    small |= {"generator.width": 8, "discriminator.width": 8}
    spec = data.digits(None).spec
    for player, networks in (("generator", GENERATORS), ("discriminator", DISCRIMINATORS)):
        for name in networks:
            config = watched("configs/digits.py", {f"{player}.name": name})
            gans.make_gan(config, spec)
        for name in OPTIMIZERS:
            config = watched("configs/digits.py", {f"optimizer.{player}.name": name})
            config.decay_images = 8
            gans.hyper_parameters(gans.make_gan(config, spec), config)
    for dataset in ("digits", "mnist"):
        config = watched("configs/digits.py:mescheder", small | {"dataset": dataset})
        starts.prepare(config)
    diverging = {"num_steps": 3, "on_nan": "rollback", "optimizer.generator.learning_rate": 1e30}
    config.update_from_flattened_dict(diverging)
    (tmp_path / "images").mkdir()
    for i, image in enumerate(data.digits(None).images[:8]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"images/{i}.png")
    streamed = {"dataset": f"folder:{tmp_path}/images", "stream": True, "stream_workers": 0}
    config.update_from_flattened_dict(streamed)
    train.train_and_evaluate(config, tmp_path / "run")
    train.default_workdir(config, "mnist")
    train.members_of(config, tmp_path)
    fields = set(cli.field_types(config))
    assert fields <= read, fields - read


def groups(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, ConfigDict]]:
    yield prefix, config
    for name in config:
        if isinstance(config.get(name), ConfigDict):
            yield from groups(config.get(name), f"{prefix}{name}.")


def test_every_public_function_says_what_it_does():
    for path in MODULES.values():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
                short = len(node.body) <= 2 or node.name in ("main", "get_config")
                assert ast.get_docstring(node) or short, f"{path.name}: {node.name}"

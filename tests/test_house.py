"""The house: who imports whom, no dead field, nothing that a user must not need."""

from __future__ import annotations

import ast
import sys

import pytest
from conftest import ROOT

import cli

ENTRY_POINTS = {"train"}
MAY_IMPORT: dict[str, set[str]] = {
    "train": {"checks", "cli", "data", "describe", "gan", "runs"},
    "checks": {"augment", "data", "gan", "losses", "models", "penalties"},
    "describe": {"data", "gan"},
    "gan": {"models", "losses", "penalties", "augment"},
    "models": {"layers"},
    "data": {"tfds_builders"},
    "configs.default": set(),
    "configs.recipes": {"configs"},
    "configs.digits": {"configs"},
    "configs.mnist": {"configs"},
    "configs.fashion_mnist": {"configs"},
    "configs.cifar10": {"configs"},
    "configs.ring": {"configs"},
    "augment": set(),
    "cli": set(),
    "layers": set(),
    "losses": set(),
    "penalties": set(),
    "runs": set(),
    "tfds_builders": set(),
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in [*ROOT.glob("*.py"), *ROOT.glob("configs/*.py")]
}


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
    assert siblings <= MAY_IMPORT[module]
    assert not siblings & ENTRY_POINTS


def test_no_tensorflow_and_no_torch():
    for path in MODULES.values():
        assert not imports(ast.parse(path.read_text())) & {"tensorflow", "torch"}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = {line.partition(">")[0].strip() for line in lines if line and line[0] != "#"}
    assert not names & {"tensorflow", "torch"}
    assert "tensorflow" not in sys.modules


def test_every_config_field_is_read():
    """Each name stands, as an attribute or a string, in a module that is no config."""
    config = cli.load_config(str(ROOT / "configs/default.py"))
    read: set[str] = set()
    for module, path in MODULES.items():
        if module.startswith("configs"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                read.add(node.target.id)  # a network's own field, read by name
            elif isinstance(node, ast.FunctionDef):
                read.add(node.name)  # an entry of a dict, read by name
    read |= {"b1", "b2", "learning_rate"}  # arguments of optax's functions, read by name
    fields = {field for path in cli._fields(config) for field in path.split(".")}
    assert fields <= read, fields - read


def test_every_public_function_says_what_it_does():
    for path in MODULES.values():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
                short = len(node.body) <= 2 or node.name in ("main", "get_config")
                assert ast.get_docstring(node) or short, f"{path.name}: {node.name}"

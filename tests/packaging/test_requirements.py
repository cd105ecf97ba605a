"""The declared requirements: bounds at both ends, met here, and nothing imported undeclared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
UNBOUNDED = {"torch", "vllm"}  # see the comments there

ALONGSIDE = {"lragent", "triton", "markupsafe", "starlette"}  # come with torch, jinja2 and fastapi
ASKED_FOR = {"datasets"}  # an error says to install it, where questions come from the hub


def _requirements() -> dict[str, Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    parsed = [Requirement(text) for text in texts]
    return {each.name: each for each in parsed if each.name != "lragent"}


@pytest.mark.parametrize("name", sorted(_requirements()))
def test_bounds(name: str) -> None:
    bounds = _requirements()[name].specifier
    assert any(bound.operator == ">=" for bound in bounds)
    assert any(bound.operator == "<" for bound in bounds) == (name not in UNBOUNDED)
    if name != "vllm":  # has an environment of its own
        assert version(name) in bounds, "what the tests run on is what is allowed"


def test_all_has_every_extra_but_vllm() -> None:
    (text,) = EXTRAS["all"]
    assert Requirement(text).extras == EXTRAS.keys() - {"all", "vllm"}


def test_everything_imported_is_declared() -> None:
    """Also what is imported inside of functions."""
    declared = {re.sub(r"[-.]", "_", name.lower()) for name in _requirements()}
    homes = packages_distributions()
    undeclared = set()
    for path in (ROOT / "src").rglob("*.py"):
        for name in _imported(path):
            owners = {re.sub(r"[-.]", "_", owner.lower()) for owner in homes.get(name, [name])}
            if not owners & declared and name not in ALONGSIDE | ASKED_FOR:
                undeclared.add((name, path.relative_to(ROOT / "src").as_posix()))
    assert not undeclared


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names

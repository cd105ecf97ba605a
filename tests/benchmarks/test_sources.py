"""Which lragent an engine's process imports, and which plugin vLLM finds there."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from benchmarks.common.dummy_weights import register
from benchmarks.common.sources import HERE, LOADER, SourceTree

import benchmarks

PYPROJECT = """
[project]
name = "lragent"
version = "1.2"
[project.entry-points."vllm.general_plugins"]
lragent = "lragent.elsewhere:register"
"""
ASK = """
import lragent
from importlib.metadata import entry_points
[found] = [e for e in entry_points(group="vllm.general_plugins") if e.name == "lragent"]
print(lragent.__file__, found.value)
"""


def test_every_script_can_be_imported():
    for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks."):
        importlib.import_module(module.name)


def tree(folder: Path) -> SourceTree:
    package = folder / "src" / "lragent"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("a = 1")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return SourceTree(folder)


def test_metadata_gives_the_entry_points_of_pyproject_and_the_load_format(tmp_path: Path):
    env = tree(tmp_path).environment(True, tmp_path / "process")
    folders = env["PYTHONPATH"].split(os.pathsep)
    found = {d.name: d for d in distributions(path=folders[1:2])}
    assert set(found) == {"lragent", LOADER}
    [entry] = found["lragent"].entry_points
    assert (entry.group, entry.name) == ("vllm.general_plugins", "lragent")
    assert entry.value == "lragent.elsewhere:register"
    [entry] = found[LOADER].entry_points
    assert (entry.group, entry.name) == ("vllm.general_plugins", LOADER)
    assert entry.load() is register


def test_a_process_imports_its_tree_and_no_installed_package(tmp_path: Path):
    """The tests' environment has lragent installed from elsewhere."""
    other = tree(tmp_path / "other")
    env = other.environment(True, tmp_path / "process")
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True)
    place = other.root / "src" / "lragent" / "__init__.py"
    assert done.stdout.split() == [str(place), "lragent.elsewhere:register"], done.stderr


def test_stock_loads_no_lragent_and_trees_share_no_compile_cache(tmp_path: Path):
    other = tree(tmp_path / "other")
    assert other.environment(False, tmp_path)["VLLM_PLUGINS"] == LOADER
    assert other.environment(True, tmp_path)["VLLM_PLUGINS"] == f"lragent,{LOADER}"
    assert other.environment(True, tmp_path)["VLLM_CACHE_ROOT"].startswith(str(tmp_path))
    here = HERE.environment(True, tmp_path).get("VLLM_CACHE_ROOT")
    assert here == os.environ.get("VLLM_CACHE_ROOT")


def test_the_digest_is_of_the_package_without_compiled_files(tmp_path: Path):
    other = tree(tmp_path)
    folder = tmp_path / "src" / "lragent"
    digest = other.digest()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("x")
    (tmp_path / "README.md").write_text("x")
    assert other.digest() == digest
    (folder / "data.json").write_text("{}")
    assert other.digest() != digest


def test_another_folder_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no source tree of lragent: it has no src/lragent"):
        SourceTree(tmp_path)


def test_folders_that_pythonpath_would_split_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="PYTHONPATH"):
        HERE.environment(True, tmp_path / f"old{os.pathsep}new")

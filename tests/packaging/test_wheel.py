from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

from tests.packaging.conftest import ROOT, Environment

IMPORT_S, HELP_S = 0.1, 0.7
ADAPTER = "lragent/agents/demo/adapters/plan/adapter_model.safetensors"

IMPORT = """
import json, sys, time
started = time.process_time()
import lragent
spent = time.process_time() - started
heavy = sorted({"torch", "numpy", "pydantic"} & set(sys.modules))
print(json.dumps({"file": lragent.__file__, "seconds": spent, "heavy": heavy}))
"""
DATA = """
from pathlib import Path
from lragent.agents.demo import demo_adapters, demo_questions, demo_store
from lragent.adapters import read_adapter
print(len(demo_questions()), len(demo_store().documents))
print(sorted(read_adapter(folder).trained_for for folder in demo_adapters().values()))
"""
HELP = """
import sys, time
from lragent.cli import main
sys.argv = ["lragent", "--help"]
try:
    main()
finally:
    print(time.process_time(), file=sys.stderr)
"""


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src" / "lragent"
    here = {
        f"lragent/{path.relative_to(package)}"
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("lragent/")}
    assert packed == here
    assert {ADAPTER, "lragent/py.typed"} <= packed


def test_the_source_archive_holds_what_readers_look_for(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "docs/vllm.md", "pyproject.toml"} <= names


def test_the_import_needs_nothing_and_is_quick(installed: Environment) -> None:
    found = [json.loads(installed.run("python", "-c", IMPORT).stdout) for _ in range(3)]
    assert Path(found[0]["file"]).is_relative_to(installed.folder)
    assert found[0]["heavy"] == []
    assert min(each["seconds"] for each in found) < IMPORT_S


def test_the_command_says_what_is_missing(installed: Environment) -> None:
    done = installed.run("lragent", "--help")
    assert done.returncode == 1
    assert "pip install 'lragent[cli]'" in done.stderr


def test_help_is_quick(installed: Environment) -> None:
    done = [installed.run("python", "-c", HELP, dependencies=True) for _ in range(3)]
    assert "Usage: lragent" in done[0].stdout, done[0].stderr
    assert min(float(each.stderr) for each in done) < HELP_S


def test_bundled_data_is_found(installed: Environment) -> None:
    done = installed.run("python", "-c", DATA, dependencies=True)
    documents = ROOT / "src/lragent/agents/demo/documents"
    count = len(list(documents.iterdir()))
    assert done.stdout.splitlines() == [f"9 {count}", "['neutral', 'neutral', 'neutral']"], (
        done.stderr
    )

"""Source archive and wheel of this checkout, and an environment with nothing but the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _build(kind: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, as an index's users may do."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return _build("wheel", source, tmp_path_factory.mktemp("wheel"))


@dataclass(frozen=True)
class Environment:
    """An environment with lragent's wheel alone."""

    folder: Path

    def run(self, *command: str, dependencies: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a program of it; with `dependencies` it sees what the tests' environment has.

        That environment's own lragent is not among these: it is installed editable, and `.pth`
        files count in site folders alone.
        """
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS")}
        if dependencies:
            env["PYTHONPATH"] = sysconfig.get_path("purelib")
        program = str(self.folder / "bin" / command[0])
        return subprocess.run(
            [program, *command[1:]], env=env, cwd=self.folder, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True, timeout=120)
    return Environment(folder)

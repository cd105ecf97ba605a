"""A source tree of lragent, and the environment in which an engine's process imports it."""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class SourceTree:
    """A checkout, or a copy of one.

    Attributes:
        root: holds ``pyproject.toml`` and ``src/lragent``.
    """

    root: Path

    def __post_init__(self) -> None:
        if not (self.root / "src" / "lragent" / "__init__.py").is_file():
            raise ValueError(f"{self.root} is no source tree of lragent: it has no src/lragent")

    def digest(self) -> str:
        """SHA-256 of the package, its data files included: what is measured."""
        folder = self.root / "src" / "lragent"
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                name, content = str(path.relative_to(folder)).encode(), path.read_bytes()
                digest.update(b"%d %s %d " % (len(name), name, len(content)) + content)
        return digest.hexdigest()

    def environment(self, plugin: bool, folder: Path) -> dict[str, str]:
        """This process's variables, and what a process needs that imports this tree.

        vLLM finds plugins in the metadata of installed packages, and a source tree has none. So
        it is written from ``pyproject.toml`` and comes first on the path, before that of an
        installed lragent.

        Args:
            plugin: whether vLLM loads lragent; without it vLLM loads no plugin at all.
            folder: for the metadata, and for vLLM's compile cache of a tree that is not this one;
                it has to outlive the process.

        Raises:
            ValueError: a folder that cannot stand in PYTHONPATH.
        """
        if os.pathsep in str(folder):
            raise ValueError(f"{folder} cannot stand in PYTHONPATH: it has a {os.pathsep!r}")
        metadata = write_metadata(folder / "metadata", self.root / "pyproject.toml")
        paths = [self.root / "src", metadata, ROOT, os.environ.get("PYTHONPATH")]
        other = {} if self.root == ROOT else {"VLLM_CACHE_ROOT": str(folder / "cache")}
        return {
            **os.environ,
            **other,
            "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_PLUGINS": "lragent" if plugin else "",
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }


HERE = SourceTree(ROOT)


def write_metadata(folder: Path, pyproject: Path) -> Path:
    """Write a ``.dist-info`` with the entry points of pyproject's ``[project]`` table."""
    project: dict[str, Any] = tomllib.loads(pyproject.read_text())["project"]
    version = "0"  # nothing asks for it
    info = folder / f"{project['name']}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()), ""]
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n"
    (info / "METADATA").write_text(head)
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder

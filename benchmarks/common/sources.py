"""A source tree of lragent, and the environment in which an engine's process imports it."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LOADER = "lragent_benchmark_weights"
"""Entry point by which every process of vLLM learns the load format of `dummy_weights`."""


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
        installed lragent. The load format of `dummy_weights` is a plugin too, so that the workers
        of tensor parallelism know it.

        Args:
            plugin: whether vLLM loads lragent.
            folder: for the metadata, and for vLLM's compile cache of a tree that is not this one;
                it has to outlive the process.

        Raises:
            ValueError: a folder that cannot stand in PYTHONPATH.
        """
        if os.pathsep in str(folder):
            raise ValueError(f"{folder} cannot stand in PYTHONPATH: it has a {os.pathsep!r}")
        project = tomllib.loads((self.root / "pyproject.toml").read_text())["project"]
        loader = {"vllm.general_plugins": {LOADER: "benchmarks.common.dummy_weights:register"}}
        metadata = folder / "metadata"
        write_metadata(metadata, project["name"], project["entry-points"])
        write_metadata(metadata, LOADER, loader)
        paths = [self.root / "src", metadata, ROOT, os.environ.get("PYTHONPATH")]
        other = {} if self.root == ROOT else {"VLLM_CACHE_ROOT": str(folder / "cache")}
        return {
            **os.environ,
            **other,
            "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_PLUGINS": f"lragent,{LOADER}" if plugin else LOADER,
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }


HERE = SourceTree(ROOT)


def write_metadata(folder: Path, name: str, groups: Mapping[str, Mapping[str, str]]) -> None:
    """Write a ``.dist-info`` with these entry points by group."""
    version = "0"  # nothing asks for it
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{entry} = {target}" for entry, target in entries.items()), ""]
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(head)
    (info / "entry_points.txt").write_text("\n".join(lines))

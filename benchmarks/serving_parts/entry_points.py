"""Entry points for a checkout that is only on PYTHONPATH.

vLLM finds plugins by the metadata of installed packages. Where lragent is imported from a folder,
there is none; then engine processes get a folder with metadata made from pyproject.toml.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"
GROUP = "vllm.general_plugins"


def metadata_path(folder: Path) -> str | None:
    """What PYTHONPATH of an engine process needs; None where lragent is installed.

    Args:
        folder: where the metadata may be written; it has to outlive the process.
    """
    project = tomllib.loads(PROJECT.read_text())["project"]
    if any(entry.name == project["name"] for entry in entry_points(group=GROUP)):
        return None
    return str(write_metadata(folder / "metadata", project))


def write_metadata(folder: Path, project: dict[str, Any]) -> Path:
    """Write a ``.dist-info`` with the entry points of pyproject's ``[project]`` table."""
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()), ""]
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder

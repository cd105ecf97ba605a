"""Hardware, versions and commit of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

DEVICE_QUERY = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]


def run(command: list[str]) -> str | None:
    """Its output; None when it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """The first GPU and its driver; without one, the CPU."""
    found = run(DEVICE_QUERY)
    if not found:
        cores = len(os.sched_getaffinity(0))
        return {
            "device": "CPU",
            "driver": None,
            "processor": f"{platform.machine()}, {cores} cores",
        }
    name, driver = found.splitlines()[0].rsplit(", ", 1)
    return {"device": name, "driver": driver, "processor": platform.machine()}


def versions() -> dict[str, Any]:
    """Versions of what runs; CUDA is the one that torch was built for."""
    import torch
    from vllm.version import __version__ as vllm_version  # pyright: ignore[reportMissingImports]

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "vllm": vllm_version,
    }


def environment() -> dict[str, str]:
    """vLLM's variables that are set for this run."""
    return {key: value for key, value in sorted(os.environ.items()) if key.startswith("VLLM_")}


def checked_out_commit(root: Path) -> str | None:
    """The commit of the checkout, with ``-dirty`` when tracked files differ; None without git.

    A folder inside of another checkout is none.
    """
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    head = run([*git, "rev-parse", "HEAD"])
    if head is None:
        return None
    changed = run([*git, "status", "--porcelain", "--untracked-files=no"])
    return f"{head}-dirty" if changed else head

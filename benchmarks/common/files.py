"""Result files: read, written whole, and named by device."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"


def load(path: Path) -> dict[str, Any]:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def file_name(device: str, kind: str) -> str:
    """``serving-h100.json`` for an NVIDIA H100 and the kind ``serving``."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower().replace("nvidia ", "")).strip("-")
    return f"{kind}-{words.split('-')[0]}.json"

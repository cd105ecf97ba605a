"""The Python of README and guide runs, on a tiny model, or a comment before it says why not.

Blocks of one document run in order and see each other's names. `MODEL`, `FOLDER` and `smollm2`
stand for the tiny model and its adapters.
"""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from lragent import Engine, SamplingParams
from lragent.engine.errors import EngineClosedError

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?^```python\n(?P<code>.*?)^```$", re.M | re.S
)
TEXT = "A page table maps virtual pages to frames. " * 3


def blocks(document: Path) -> list[tuple[str | None, str]]:
    found = BLOCK.finditer(document.read_text(encoding="utf-8"))
    return [(match["why"], match["code"]) for match in found]


WITH_CODE = [document for document in DOCUMENTS if blocks(document)]


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.name)
def test_blocks(
    document: Path,
    tiny_model: Path,
    adapters_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "adapters").symlink_to(adapters_dir)
    monkeypatch.chdir(tmp_path)
    folders = {name: adapters_dir / name for name in ("plan", "act", "reflect")}
    monkeypatch.setattr("lragent.agents.demo.demo_adapters", lambda: folders)
    names: dict[str, Any] = {
        "Engine": Engine,
        "folders": folders,
        "messages": [{"role": "user", "content": TEXT}],
        "params": SamplingParams(max_tokens=4),
        "prompt": TEXT,
    }
    for why, code in blocks(document):
        if why is not None:
            continue
        for word, value in (("MODEL", tiny_model), ("smollm2", tiny_model)):
            code = code.replace(f'"{word}"', repr(str(value)))
        code = code.replace('"FOLDER"', repr(str(adapters_dir / "plan")))
        if not _is_open(names.get("engine")):
            names["engine"] = Engine(str(tiny_model), folders, "base+lr", kv_bytes=8 << 20)
        run(code, names)
    if _is_open(names.get("engine")):
        names["engine"].close()


def test_reasons_are_given() -> None:
    left_out = [why for document in WITH_CODE for why, _ in blocks(document) if why is not None]
    assert all(len(why.split()) > 3 for why in left_out)


def run(code: str, names: dict[str, Any]) -> None:
    compiled: CodeType = compile(code, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)
    if asyncio.iscoroutine(result):
        asyncio.run(result)


def _is_open(engine: Engine | None) -> bool:
    if engine is None:
        return False
    try:
        engine.submit([5], SamplingParams(max_tokens=1)).result()
    except EngineClosedError:
        return False
    return True

"""The examples of sharing, as a user runs them."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.tokenizer import byte_tokenizer
from tests.server.serving import byte_llama, options_of, serving

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bytes"
    byte_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, base = tmp_path_factory.mktemp("adapters"), byte_llama()
    plan = make_adapter(root / "plan", base)
    return {"plan": plan, "act": make_adapter(root / "act", base, seed=2, share_a_with=plan)}


@pytest.fixture(scope="module")
def url(adapters: dict[str, Path]) -> Iterator[str]:
    with serving(adapters, options_of(api_key=None)) as server:
        yield f"{server.url}/v1"


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(EXAMPLES)
    runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_existing_adapters(
    model: Path,
    adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("existing_adapters", monkeypatch, *map(str, (model, *adapters.values())))
    reused = [int(n) for n in re.findall(r"act reused (\d+) of", capsys.readouterr().out)]
    assert reused[0] == 0
    assert reused[1] > 500


def test_train_and_share(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train_and_share", monkeypatch, str(model), str(tmp_path))
    reused = [int(n) for n in re.findall(r"(\d+) tokens reused", capsys.readouterr().out)]
    assert reused[0] == 0
    assert reused[1] > 100


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # those libraries' own
@pytest.mark.parametrize("name", ["langgraph_agents", "openai_agents"])
def test_agents_on_a_server(
    name: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(name, monkeypatch, url)
    cached = [int(n) for n in re.findall(r"\w+: (\d+)", capsys.readouterr().out)]
    assert cached[0] == 0
    assert cached[1] > 500


def test_notebook(
    model: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lragent.agents.demo.demo_adapters", lambda: adapters)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {}
    for cell in json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]).replace('"smollm2"', repr(str(model))), names)
    assert names["second"].cached_tokens > 500
    assert names["answer"].cached_tokens > 50

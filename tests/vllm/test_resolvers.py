"""Adapters that vLLM's LoRA resolvers find when a request first names them."""

# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.adapters.factory import edit_config, make_adapter
from tests.engine.models import prompt_of, tiny_model
from tests.vllm.serving import PAGE, Ask, Embedded, Served

BASE = "tiny/llama"
CONTEXT = prompt_of(70)
FULL = len(CONTEXT) // PAGE * PAGE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The resolver's: `plan` and `act`, which are in a group; `guest` and `bad` are in none."""
    folder, model = tmp_path_factory.mktemp("resolved"), tiny_model()
    plan = make_adapter(folder / "plan", model, seed=1)
    make_adapter(folder / "act", model, seed=2, share_a_with=plan)
    make_adapter(folder / "guest", model, seed=3)
    make_adapter(folder / "bad", model, seed=4)
    for adapter in folder.iterdir():
        edit_config(adapter, base_model_name_or_path=BASE)  # which the resolver compares
    edit_config(folder / "bad", use_dora=True)
    return folder


@pytest.fixture(scope="module")
def served(root: Path, folder: Path) -> Iterator[Served]:
    option = {"groups": [["plan", "act"]], "policy": "base+lr"}
    with Served(root / "llama", {}, option) as served:
        yield served


@pytest.fixture
def models(served: Served, folder: Path) -> Any:
    """The server's register of models, over the engine in this process."""
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.plugins.lora_resolvers.filesystem_resolver import FilesystemResolver

    async def add_lora(request: Any) -> bool:
        return served.core.add_lora(request)

    client: Any = SimpleNamespace(
        add_lora=add_lora, model_config=SimpleNamespace(model=BASE), renderer=None,
        input_processor=None, vllm_config=served.llm.llm_engine.vllm_config,
    )  # fmt: skip
    models = OpenAIServingModels(client, [SimpleNamespace(name=BASE)])
    models.lora_resolvers = [FilesystemResolver(str(folder))]
    return models


def test_in_a_group_and_outside(served: Served, models: Any, folder: Path):
    with (
        Embedded({name: folder / name for name in ("plan", "act")}, "base+lr") as group,
        Embedded({"guest": folder / "guest"}, "isolated") as outside,
    ):
        for name, cached in (("plan", 0), ("act", FULL), ("guest", 0), ("guest", FULL)):
            found = asyncio.run(models.resolve_lora(name))
            [answer] = served.ask(Ask(name, CONTEXT), lora=[found])
            [expected] = (outside if name == "guest" else group).ask(Ask(name, CONTEXT))
            assert (answer.tokens, answer.cached) == (expected.tokens, cached), name
    assert set(models.lora_requests) == {"plan", "act", "guest"}


def test_one_that_cannot_be_served(models: Any, monkeypatch: pytest.MonkeyPatch):
    """vLLM tells the client that it could not be loaded, and its log why."""
    from vllm.entrypoints.openai.models import serving

    log: list[str] = []
    monkeypatch.setattr(serving.logger, "warning", lambda text, *args: log.append(text % args))
    refused = asyncio.run(models.resolve_lora("bad"))
    assert refused.error.code == 400
    assert "'bad' was found but could not be loaded" in refused.error.message
    assert "adapter 'bad': " in log[0]
    assert "DoRA" in log[0]
    assert asyncio.run(models.resolve_lora("none")).error.code == 404
    assert not models.lora_requests

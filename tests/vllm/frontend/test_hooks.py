"""The server's own adapter registry, with the plugin's hooks around it."""

# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from lragent.vllm.frontend.hooks import _load


@pytest.mark.parametrize("on", [True, False])
def test_a_load_in_place_is_one_load(on: bool):
    """vLLM 0.29 to 0.32 leave the flag on the stored request, with which every later one comes."""
    stored = SimpleNamespace(load_inplace=True)

    async def stock(self: Any, request: Any, base_model_name: str | None = None) -> str:
        self.lora_requests[request.lora_name] = stored
        return "Success"

    config = SimpleNamespace(additional_config={"lragent": {}} if on else {})
    models = SimpleNamespace(
        lora_requests={}, engine_client=SimpleNamespace(vllm_config=config)
    )  # fmt: skip
    asked = SimpleNamespace(lora_name="plan", load_inplace=True)
    assert asyncio.run(_load(stock)(models, asked)) == "Success"
    assert stored.load_inplace is not on


def test_a_load_that_failed_leaves_nothing_to_change():
    async def stock(self: Any, request: Any) -> str:
        return "an error"

    models = SimpleNamespace(lora_requests={}, engine_client=SimpleNamespace(vllm_config=None))
    asked = SimpleNamespace(lora_name="plan")
    assert asyncio.run(_load(stock)(models, asked)) == "an error"

"""Chat messages reach the engine as the same token ids, and long ones are tokenised once."""

# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lragent import text_pieces
from lragent.vllm.frontend.chat_text import _pieces
from lragent.vllm.plugin import register

pytestmark = pytest.mark.every_version
DOCUMENT = "a page of words " * 60
LONG = [{"role": "system", "content": "Read."}, {"role": "user", "content": DOCUMENT}]
LIMIT = 1500


@pytest.fixture(params=[True, False], ids=["plugin", "stock"])
def plugin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(text_pieces, "LONG", 200)
    return request.param


@pytest.fixture
def renderer(plugin: bool, root: Path) -> Iterator[Any]:
    """What the server turns messages into token ids with."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.renderers import renderer_from_config

    register()  # as vLLM does in each of its processes
    option = {"lragent": {"policy": "base+lr", "groups": [["plan", "act"]]}} if plugin else {}
    model = str(root / "llama")
    config = EngineArgs(model, dtype="float32", enforce_eager=True).create_engine_config()
    config.additional_config = option
    made = renderer_from_config(config)
    yield made
    made.shutdown()


def rendered(renderer: Any, messages: list[dict[str, str]], **how: Any) -> list[int]:
    from vllm.renderers import ChatParams, TokenizeParams

    extras, special = how.pop("extras", None), how.pop("special", False)
    params = TokenizeParams(max_total_tokens=LIMIT, add_special_tokens=special, **how)
    chat = ChatParams(chat_template_content_format="string")
    chat = chat.with_defaults({"add_generation_prompt": True, "tokenize": False})
    _, prompts = asyncio.run(
        renderer.render_chat_async([messages], chat, params, prompt_extras=extras)
    )
    assert prompts[0].get("cache_salt") == (extras or {}).get("cache_salt")
    assert not [key for key in prompts[0] if "lragent" in key]
    return prompts[0]["prompt_token_ids"]


def expected(renderer: Any, messages: list[dict[str, str]]) -> list[int]:
    tokenizer = renderer.get_tokenizer()
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_token_ids_are_stock_vllms(renderer: Any):
    grown = [*LONG, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    for messages in (LONG, LONG[:1], grown, LONG):
        assert rendered(renderer, messages) == expected(renderer, messages)


def test_each_tenant_has_a_document_tokenised_once(
    plugin: bool, renderer: Any, monkeypatch: pytest.MonkeyPatch
):
    assert rendered(renderer, LONG) == expected(renderer, LONG)
    assert hasattr(renderer, "lragent_pieces") == plugin
    if not plugin:
        return
    pieces = _pieces(renderer)
    pieces._kept.clear()
    asked: list[int] = []
    encode = pieces._encode
    monkeypatch.setattr(pieces, "_encode", lambda text: asked.append(len(text)) or encode(text))
    salt = {"cache_salt": "tenant"}
    for extras, new in ((None, True), (None, False), (salt, True), (salt, False)):
        asked.clear()
        assert rendered(renderer, LONG, extras=extras) == expected(renderer, LONG)
        assert (max(asked, default=0) >= len(DOCUMENT)) == new


def test_what_vllm_cuts_or_refuses_is_its_own_affair(renderer: Any):
    from vllm.exceptions import VLLMValidationError

    ids = expected(renderer, LONG)
    assert rendered(renderer, LONG, truncate_prompt_tokens=100) in (ids[:100], ids[-100:])
    assert rendered(renderer, LONG, special=True) == ids  # this tokenizer adds none
    with pytest.raises(VLLMValidationError, match=str(LIMIT)):
        rendered(renderer, [{"role": "user", "content": DOCUMENT * 2}])

"""Chat messages on their way to token ids: long ones that come again are tokenised once.

The server tokenises the whole conversation for each agent, which takes several times as long as the
hand-over itself. vLLM attaches a request's ``cache_salt`` after that, so it is brought along.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

from lragent.text_pieces import TextPieces
from lragent.vllm.options import options_of
from lragent.vllm.patching import Hook

_TENANT = "lragent_tenant"
_tenant: ContextVar[str | None] = ContextVar(_TENANT, default=None)


def _render(stock: Any) -> Any:
    @functools.wraps(stock)
    async def render_chat_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        if options_of(self.config) is None:
            return await stock(self, *args, **kwargs)
        before = _tenant.set((kwargs.get("prompt_extras") or {}).get("cache_salt", ""))
        try:
            return await stock(self, *args, **kwargs)
        finally:
            _tenant.reset(before)

    return render_chat_async


def _tokenize_one(stock: Any) -> Any:
    @functools.wraps(stock)
    async def tokenize_singleton_prompt_async(self: Any, prompt: Any, params: Any) -> Any:
        tenant = _tenant.get()
        if tenant is None or not isinstance(prompt.get("prompt"), str):
            return await stock(self, prompt, params)
        result = await stock(self, {**prompt, _TENANT: tenant}, params)
        result.pop(_TENANT, None)
        return result

    return tokenize_singleton_prompt_async


def _tokenize(stock: Any) -> Any:
    @functools.wraps(stock)
    def tokenize_prompt(self: Any, prompt: Any, params: Any) -> Any:
        tenant = prompt.pop(_TENANT, None)
        if tenant is None:
            return stock(self, prompt, params)
        how = params.get_encode_kwargs()
        if how["add_special_tokens"] or self._wants_offsets(prompt, params):
            return stock(self, prompt, params)
        ids = _pieces(self)(prompt["prompt"], tenant)
        if how["truncation"] and len(ids) > how["max_length"]:
            return stock(self, prompt, params)
        return self._build_tokens_prompt(ids, prompt)

    return tokenize_prompt


def _pieces(renderer: Any) -> TextPieces:
    found = getattr(renderer, "lragent_pieces", None)
    if found is None:
        tokenizer = renderer.get_tokenizer()

        def encode(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        found = renderer.lragent_pieces = TextPieces(tokenizer, encode)
    return found


_RENDERER = "vllm.renderers.base"

HOOKS = (
    Hook(_RENDERER, "BaseRenderer.render_chat_async", _render),
    Hook(_RENDERER, "BaseRenderer._tokenize_singleton_prompt_async", _tokenize_one),
    Hook(_RENDERER, "BaseRenderer._tokenize_prompt", _tokenize),
)

"""An answer's text continues the prompt's last tokens, not the whole prompt.

Whether a token begins with a space, or with a character's second byte, follows from those before
it, so vLLM gives the prompt to tokenizers' ``DecodeStream``. For the first token that decodes all
of it twice, which is half of what the server does for a hand-over of 16,384 tokens. The prompt's
last tokens say the same.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from lragent.vllm.options import options_of
from lragent.vllm.patching import Hook

TAIL = 256
"""Tokens of a prompt's end."""
LONG = 4 * TAIL
"""Tokens from which on it is worth a look at the end."""
_BYTES = 4  # of a character at most, in UTF-8

_shortens: ContextVar[bool] = ContextVar("lragent_shortens", default=False)


def end_of(ids: Sequence[int], tokenizer: Any, skip_special_tokens: bool) -> Sequence[int] | None:
    """The last tokens of a long prompt, from the first byte of a character on.

    None where they do not stand for themselves: without text, or with half a character at the end.

    Args:
        ids: the prompt.
        tokenizer: a ``tokenizers.Tokenizer``.
        skip_special_tokens: whether the answer's text leaves these out.
    """
    for first in range(len(ids) - TAIL, len(ids) - TAIL + _BYTES):
        end = ids[first:]
        text = tokenizer.decode(end, skip_special_tokens=skip_special_tokens)
        if text and "\ufffd" not in text:
            return end
    return None


def _add_request(stock: Any) -> Any:
    @functools.wraps(stock)
    async def add_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = _shortens.set(options_of(self.vllm_config) is not None)
        try:
            return await stock(self, *args, **kwargs)
        finally:
            _shortens.reset(before)

    return add_request


def _init(stock: Any) -> Any:
    @functools.wraps(stock)
    def init(self: Any, tokenizer: Any, request: Any) -> None:
        stock(self, tokenizer, request)
        ids = request.prompt_token_ids
        if ids is None or len(ids) < LONG or not _shortens.get():
            return
        end = end_of(ids, self.tokenizer, self.skip_special_tokens)
        if end is not None:
            self.stream = type(self.stream)(ids=end, skip_special_tokens=self.skip_special_tokens)

    return init


HOOKS = (
    Hook("vllm.v1.engine.async_llm", "AsyncLLM._add_request", _add_request),
    Hook("vllm.v1.engine.detokenizer", "FastIncrementalDetokenizer.__init__", _init),
)

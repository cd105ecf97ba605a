"""An OpenAI-compatible address as a workflow's backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, cast

import openai

from lragent.agents.backend import (
    BackendError,
    CallChunk,
    CallParams,
    CallUsage,
    ContextOverflowError,
)
from lragent.agents.prompts import Message

_TOO_LONG = ("context length", "context_length", "maximum context", "too long", "max_model_len")


class OpenAIBackend:
    """Calls `base_url` with the openai client; an adapter is chosen by `model`.

    Args:
        base_url: address up to and including ``/v1``.
        base_model: `model` for calls without an adapter.
        api_key: sent as bearer token; servers without keys take any text.
        cache_salt: keeps tenants apart on servers that know the field; "" sends none.
        timeout: seconds a call may take.
    """

    def __init__(
        self,
        base_url: str,
        *,
        base_model: str = "",
        api_key: str = "none",
        cache_salt: str = "",
        timeout: float = 120.0,
    ) -> None:
        self._client = openai.OpenAI(base_url=base_url, api_key=api_key, timeout=timeout)
        self._base_model = base_model
        self._cache_salt = cache_salt

    def complete(
        self,
        messages: Sequence[Message],
        *,
        adapter: str | None,
        params: CallParams,
        continue_final_message: bool = True,
    ) -> Iterator[CallChunk]:
        """See `ChatBackend.complete`."""
        extra: dict[str, Any] = {
            "continue_final_message": continue_final_message,
            "add_generation_prompt": not continue_final_message,
        }
        if self._cache_salt:
            extra["cache_salt"] = self._cache_salt
        reason: str | None = None
        usage: CallUsage | None = None
        try:
            stream = self._client.chat.completions.create(
                model=adapter or self._base_model,
                messages=cast(Any, list(messages)),
                max_tokens=params.max_tokens,
                temperature=params.temperature,
                top_p=params.top_p,
                seed=params.seed,
                stop=list(params.stop) or None,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=extra,
            )
            with closing(stream):
                for event in stream:
                    if event.usage is not None:
                        usage = _usage(event.usage)
                    for choice in event.choices:
                        reason = choice.finish_reason or reason
                        if choice.delta.content:
                            yield CallChunk(choice.delta.content)
        except openai.APIStatusError as error:
            message = f"the server answered {error.status_code}: {error.message}"
            if error.status_code == 400 and any(t in error.message.lower() for t in _TOO_LONG):
                raise ContextOverflowError(message) from error
            raise BackendError(message) from error
        except openai.APIConnectionError as error:
            raise BackendError(f"no answer from {self._client.base_url}: {error}") from error
        except openai.OpenAIError as error:
            raise BackendError(str(error)) from error
        yield CallChunk(finish_reason=reason, usage=usage)


def _usage(usage: openai.types.CompletionUsage) -> CallUsage:
    details = usage.prompt_tokens_details
    return CallUsage(
        prompt_tokens=usage.prompt_tokens,
        generated_tokens=usage.completion_tokens,
        cached_tokens=details.cached_tokens if details else None,
    )

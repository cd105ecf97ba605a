"""One request on its way through the engine, and the handle that its caller holds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lragent.cache.client import CacheClient
from lragent.cache.lease import Lease
from lragent.cache.sharing_reasons import public_reason
from lragent.engine.bindings import Binding
from lragent.engine.errors import GenerationFailedError
from lragent.engine.params import SamplingParams

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class TokenLogprob:
    """Natural-log probability of a chosen token, and of the likeliest tokens at its place."""

    token_id: int
    logprob: float
    top: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed answer; the last one has a finish reason."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Completion:
    """A finished request.

    Attributes:
        text: the answer, without the stop text.
        token_ids: every generated token, those of the stop text and the end token included.
        finish_reason: `stop`, `length`, `cancelled` or `error`.
        prompt_tokens: tokens of the prompt.
        cached_tokens: prompt tokens that needed no computation.
        ttft_s: seconds from submission to the first token; None when there was none.
        total_s: seconds from submission to the end.
        logprobs: one entry a generated token when asked for.
        adapter: the adapter's name, None for the base model.
        not_shared: why no page of the prompt came from the cache; None when some did. It tells
            nothing about other tenants.
        error: what went wrong, when the reason is `error`.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float | None
    total_s: float
    logprobs: tuple[TokenLogprob, ...]
    adapter: str | None
    not_shared: str | None
    error: str | None = None


class Request:
    """The handle of a submitted request: iterate over its chunks, or wait for its result.

    The engine works while some caller waits for a chunk or a result; there is no thread behind it.
    """

    def __init__(
        self,
        request_id: int,
        prompt: Sequence[int],
        params: SamplingParams,
        binding: Binding,
        client: CacheClient,
        pump: Callable[[Request], None],
        cancel: Callable[[Request], None],
    ):
        self.id = request_id
        self.params = params
        self.binding = binding
        self.client = client
        self.tokens = list(prompt)
        self.prompt_tokens = len(prompt)
        self.context_tokens = binding.context_tokens(prompt)
        self.computed = 0
        self.lease: Lease | None = None
        self.chunks: deque[Chunk] = deque()
        self.text_parts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.cached_tokens: int | None = None
        self.not_shared: str | None = None
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.submitted = time.perf_counter()
        self.first_token: float | None = None
        self.finished: float | None = None
        self._pump = pump
        self._cancel = cancel

    @property
    def done(self) -> bool:
        """Whether no more tokens will come."""
        return self.finish_reason is not None

    @property
    def shareable_tokens(self) -> int | None:
        """Leading tokens whose pages others may read; None for all."""
        return None if self.binding.context_fills is None else self.context_tokens

    @property
    def generated(self) -> list[int]:
        """Tokens generated so far."""
        return self.tokens[self.prompt_tokens :]

    def __iter__(self) -> Iterator[Chunk]:
        """Yield chunks as they come; leaving the loop early cancels the request.

        Raises:
            GenerationFailedError: the forward pass failed.
        """
        try:
            while True:
                while self.chunks:
                    yield self.chunks.popleft()
                if self.done:
                    break
                self._pump(self)
        finally:
            self._cancel(self)
        if self.finish_reason == "error":
            raise GenerationFailedError(self.error)

    def cancel(self) -> None:
        """Stop now and give the pages back; what was generated stays in the result."""
        self._cancel(self)

    def result(self) -> Completion:
        """Wait for the end and return the whole answer.

        Raises:
            GenerationFailedError: the forward pass failed.
        """
        while not self.done:
            self.chunks.clear()  # the parts are kept; a waiting chunk would stop the pump
            self._pump(self)
        if self.finish_reason == "error":
            raise GenerationFailedError(self.error)
        return self.completion()

    def completion(self) -> Completion:
        """The answer as far as it came."""
        end = self.finished if self.finished is not None else time.perf_counter()
        return Completion(
            text="".join(self.text_parts),
            token_ids=tuple(self.generated),
            finish_reason=self.finish_reason or "cancelled",
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens or 0,
            ttft_s=None if self.first_token is None else self.first_token - self.submitted,
            total_s=end - self.submitted,
            logprobs=tuple(self.logprobs),
            adapter=self.binding.name,
            not_shared=self.not_shared and public_reason(self.not_shared),
            error=self.error,
        )

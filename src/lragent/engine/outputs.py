"""What a request gives its caller."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]


@dataclass(frozen=True)
class TokenLogprob:
    """Natural-log probability of a chosen token, and of the likeliest tokens at its place."""

    token_id: int
    logprob: float
    top: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed answer; the last one has a finish reason, and a stop reason.

    `index` tells the answers of a request with `n` above 1 apart.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    index: int = 0
    stop_reason: int | str | None = None


@dataclass(frozen=True)
class Completion:
    """A finished request.

    Attributes:
        text: the answer, without the stop text.
        token_ids: every generated token, those of the stop text and the end token included.
        finish_reason: `stop`, `length`, `cancelled`, `deadline` (it took too long) or `error`.
        prompt_tokens: tokens of the prompt.
        cached_tokens: prompt tokens that needed no computation.
        ttft_s: seconds from submission to the first token; None when there was none.
        total_s: seconds from submission to the end.
        logprobs: one entry a generated token when asked for.
        adapter: the adapter's name, None for the base model.
        not_shared: why no page of the prompt came from the cache; None when some did. It tells
            nothing about other tenants.
        error: what went wrong, when the reason is `error`.
        prompt_logprobs: one entry a token of the prompt when asked for, None for the first one.
        index: which of the request's answers it is.
        stop_reason: the stop text, or the token of `stop_token_ids`, that ended it; None for any
            other end, and for the model's end token.
        others: the answers behind the first, when the request asked for `n` above 1.
        distributions: log-probabilities `[generated, vocab]` in float32, on the engine's device,
            when asked for.
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
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    index: int = 0
    stop_reason: int | str | None = None
    others: tuple[Completion, ...] = field(default=(), repr=False)
    distributions: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def outputs(self) -> tuple[Completion, ...]:
        """All answers of the request; this one alone unless it asked for `n` above 1."""
        return (self, *self.others)

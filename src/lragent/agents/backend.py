"""What a workflow needs of a language model: one streamed chat call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lragent.agents.prompts import Message


class BackendError(RuntimeError):
    """The backend could not serve a call; the message says why."""


class ContextOverflowError(BackendError):
    """The prompt does not fit the model's context."""


@dataclass(frozen=True)
class CallParams:
    """Decoding of one call. Temperature 0 is greedy; `stop` strings are not part of the text."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class CallUsage:
    """Tokens of one call. `cached_tokens` of the prompt needed no computation (None: not told)."""

    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True)
class CallChunk:
    """A piece of a streamed answer; the usage comes with the last one."""

    text: str = ""
    finish_reason: str | None = None
    usage: CallUsage | None = None


class ChatBackend(Protocol):
    """Any engine with a chat interface."""

    def complete(
        self,
        messages: Sequence[Message],
        *,
        adapter: str | None,
        params: CallParams,
        continue_final_message: bool = True,
    ) -> Iterator[CallChunk]:
        """Stream an answer by `adapter` (None: the base model); closing the iterator cancels.

        Raises ContextOverflowError when the prompt is too long, BackendError for all else.
        """
        ...

"""``/v1/completions``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from lragent.server.protocol.common import Answer, GenerationBody, Reason, StopReason


class CompletionBody(GenerationBody):
    """One or more prompts to continue, as text or token ids."""

    neutral: ClassVar = {"best_of": (1,), "echo": (False,), "suffix": ("",)}

    prompt: str | list[str] | list[int] | list[list[int]] = Field(min_length=1)
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, of which there may be one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return list(self.prompt)  # pyright: ignore[reportReturnType]


class CompletionLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One answer, or a piece of it; answers to the first prompt come first."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Reason | None = None
    stop_reason: StopReason = None


class CompletionAnswer(Answer):
    """The whole answer, or an event of a stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]

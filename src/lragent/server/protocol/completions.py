"""``/v1/completions``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from lragent.engine import SamplingParams
from lragent.server.protocol.common import Answer, GenerationBody, Reason, StopReason


class CompletionBody(GenerationBody):
    """One or more prompts to continue, as text or token ids."""

    neutral: ClassVar = {"best_of": (1,), "suffix": ("",)}

    prompt: str | list[str] | list[int] | list[list[int]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=0, description="0 needs echo: the prompt alone.")
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = Field(None, description="Put the prompt in front of each answer.")

    @model_validator(mode="after")
    def _something_to_answer(self) -> CompletionBody:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 needs echo: true")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, of which there may be one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return list(self.prompt)  # pyright: ignore[reportReturnType]

    def sampling(self, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """As for all requests; with `echo` the prompt's log-probabilities are wanted, too."""
        params = super().sampling(max_tokens, logprobs)
        return params.model_copy(update={"prompt_logprobs": logprobs}) if self.echo else params


class CompletionLogprobs(BaseModel):
    """Log-probabilities of tokens, one entry each; None for the first one of an echoed prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
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

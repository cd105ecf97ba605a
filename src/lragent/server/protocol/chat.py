"""``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Field

from lragent.server.protocol.common import Answer, GenerationBody, Reason, StopReason, Strict


def _text_of_parts(content: Any) -> Any:
    """A message's text, which may come in parts."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise ValueError("only parts of type 'text' are supported")
        if not isinstance(part.get("text"), str):
            raise ValueError("a part of type 'text' has no text")
        texts.append(part["text"])
    return "\n".join(texts)


class ChatMessage(Strict):
    """One message; the model's chat template decides which roles there are."""

    role: str
    content: Annotated[
        str,
        BeforeValidator(_text_of_parts, json_schema_input_type=str | list[dict[str, str]] | None),
    ] = ""
    name: str | None = None
    tool_call_id: str | None = None


class ChatBody(GenerationBody):
    """A conversation to answer."""

    neutral: ClassVar = {
        "audio": (),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
    }

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False


class TopLogprob(BaseModel):
    """One of the likeliest tokens at a place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A chosen token."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the `n` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Reason
    stop_reason: StopReason = None


class ChatAnswer(Answer):
    """The whole answer."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class Delta(BaseModel):
    """What came since the event before."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    """A piece of one of the `n` answers."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Reason | None = None
    stop_reason: StopReason = None


class ChatChunk(Answer):
    """An event of a stream."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]

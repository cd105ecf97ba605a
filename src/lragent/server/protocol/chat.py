"""``/v1/chat/completions``."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Field

from lragent.server.protocol.common import Answer, GenerationBody, Reason, StopReason, Strict


def _text_of_parts(content: Any) -> Any:
    """A message's text, which may come in parts."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise ValueError("only parts of type 'text' are supported")
        if not isinstance(part.get("text"), str):
            raise ValueError("a part of type 'text' has no text")
        given = {name for name, value in part.items() if value is not None}
        if unknown := given - {"type", "text"}:
            raise ValueError(f"a part of type 'text' has no field {min(unknown)!r}")
        texts.append(part["text"])
    return "\n".join(texts)


class CalledFunction(Strict):
    """A function by its name, and its arguments as a JSON object in text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call of a tool that the model asks for."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it: the arguments are an object.

        Raises:
            ValueError: they are none.
        """
        arguments = json.loads(self.function.arguments)
        if not isinstance(arguments, dict):
            raise ValueError(f"the arguments of {self.function.name!r} are no JSON object")
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": self.type, "function": function}


class Function(Strict):
    """What the model is told of a function; `strict` is taken and changes nothing."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


class ChatMessage(Strict):
    """One message; the model's chat template decides which roles there are."""

    neutral: ClassVar = {"annotations": ([],)}  # what OpenAI's own answers have

    role: str
    content: Annotated[
        str,
        BeforeValidator(_text_of_parts, json_schema_input_type=str | list[dict[str, str]] | None),
    ] = ""
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatBody(GenerationBody):
    """A conversation to answer."""

    neutral: ClassVar = {
        "audio": (),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "parallel_tool_calls": (True,),
    }

    messages: list[ChatMessage] = Field(min_length=1)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto"] | None = Field(
        None, description="`none` leaves the tools out of the prompt; none can be forced."
    )
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
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


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


class ToolCallDelta(ToolCall):
    """A whole call: calls are not streamed in parts."""

    index: int


class Delta(BaseModel):
    """What came since the event before."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


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

"""What both kinds of generation have in common."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lragent.engine import SamplingParams, StructuredOutputsParams

Reason = Literal["stop", "length", "tool_calls"]
StopReason = int | str | None
"""The stop text or token that ended an answer, as in vLLM; None for any other end."""

_SAMPLING = (
    "frequency_penalty", "ignore_eos", "logit_bias", "min_p", "min_tokens", "n",
    "presence_penalty", "repetition_penalty", "seed", "stop", "stop_token_ids", "temperature",
    "top_k", "top_p",
)  # fmt: skip


class Strict(BaseModel):
    """Takes no field that it does not know; None is as good as left out.

    Attributes:
        ignored: fields that are taken and change nothing.
        neutral: fields that are not supported, and their values that ask for nothing.
    """

    model_config = ConfigDict(extra="forbid")
    ignored: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        kept = {k: v for k, v in body.items() if v is not None and k not in cls.ignored}
        for name, neutral in cls.neutral.items():
            if name in kept and kept.pop(name) not in neutral:
                raise ValueError(f"{name} is not supported by this server; leave it out")
        return kept


class StreamOptions(Strict):
    """Whether a last event of the stream has the usage."""

    neutral: ClassVar = {"continuous_usage_stats": (False,), "include_obfuscation": (False,)}

    include_usage: bool = False


class AnyText(Strict):
    """An answer of no given form."""

    type: Literal["text"]


class AnyObject(Strict):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class NamedSchema(Strict):
    """A JSON schema; the answer follows it whether it is `strict` or not."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class OfSchema(Strict):
    """An answer that follows a JSON schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


Format = Annotated[AnyText | AnyObject | OfSchema, Field(discriminator="type")]


class GenerationBody(Strict):
    """Fields of every request for text. Ranges are checked by `SamplingParams`."""

    ignored: ClassVar = frozenset(
        (
            "metadata", "prompt_cache_key", "prompt_cache_retention",
            "safety_identifier", "service_tier", "store", "user",
        )
    )  # fmt: skip

    model: str | None = Field(None, description="An adapter's name, or the base model's (default).")
    n: int | None = Field(None, ge=1, le=128, description="Answers for each prompt.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, description="0 is greedy; default 1.")
    top_p: float | None = None
    top_k: int | None = Field(None, description="0 or -1 keeps every token.")
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    response_format: Format | None = None
    structured_outputs: StructuredOutputsParams | None = Field(
        None, description="The answer's form by a schema, regex, choice or grammar, as in vLLM."
    )
    deadline: float | None = Field(
        None, gt=0, allow_inf_nan=False,
        description="Seconds from its arrival after which it ends with the error 504.",
    )  # fmt: skip
    cache_salt: str | None = Field(
        None, description="Requests with different salts share no cached page."
    )

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> GenerationBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @model_validator(mode="after")
    def _one_form(self) -> GenerationBody:
        if self.structured_outputs is not None and self.form != self.structured_outputs:
            raise ValueError("give response_format or structured_outputs, not both")
        return self

    @property
    def form(self) -> StructuredOutputsParams | None:
        """The form that the answer must have; None for any."""
        match self.response_format:
            case AnyObject():
                return StructuredOutputsParams(json_object=True)
            case OfSchema(json_schema=wanted):
                return StructuredOutputsParams(json=wanted.schema_)
        return self.structured_outputs

    def sampling(self, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """The engine's parameters, with OpenAI's default temperature.

        Raises:
            pydantic.ValidationError: a value is out of range.
        """
        given = {name: getattr(self, name) for name in _SAMPLING}
        given = {name: value for name, value in given.items() if value is not None}
        if given.get("top_k") == -1:
            given["top_k"] = 0
        return SamplingParams.model_validate(
            {
                "temperature": 1.0,
                **given,
                "max_tokens": max_tokens,
                "logprobs": logprobs,
                "structured_outputs": self.form,
            }
        )


class CachedTokens(BaseModel):
    """Prompt tokens that came from the cache."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of all prompts and answers of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens

    @classmethod
    def of(cls, prompt: int, completion: int, cached: int) -> Usage:
        """From its three counts."""
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=CachedTokens(cached_tokens=cached),
        )


class Answer(BaseModel):
    """What every answer and every event of a stream has."""

    id: str
    created: int
    model: str
    choices: list[Any]
    usage: Usage | None = None


class ErrorDetail(BaseModel):
    """What is wrong, and with which field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error in OpenAI's form; in a stream it is the last event."""

    error: ErrorDetail

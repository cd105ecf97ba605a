"""How a request wants its tokens chosen and when it wants to stop."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass


def _as_tuple(value: object) -> object:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class StructuredOutputsParams:
    """The form of an answer, by one of these; vLLM's names.

    Attributes:
        json: a JSON schema, as text or as a mapping.
        regex: a regular expression that the whole answer matches.
        choice: texts, one of which is the answer.
        grammar: a grammar in the syntax of Lark.
        json_object: any JSON object.
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)] | None = None
    grammar: str | None = None
    json_object: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = (self.json, self.regex, self.choice, self.grammar, self.json_object)
        if sum(value is not None for value in given) != 1:
            raise ValueError("give one of json, regex, choice, grammar and json_object")
        return self


class SamplingParams(BaseModel):
    """Decoding options of one request. Names and meanings are vLLM's where both have the thing.

    Attributes:
        n: answers to the prompt, which is computed once; the i-th has the seed `seed + i`.
        max_tokens: most tokens to generate, at least 1.
        min_tokens: tokens to generate before an end token, a token of `stop_token_ids` or a stop
            text may end the answer.
        temperature: 0 is greedy; from 0.001 to 1,000 samples from `softmax(logits / temperature)`.
        top_p: nucleus mass in (0, 1]; 1 keeps every token.
        top_k: keep the k likeliest tokens; 0 or -1 keeps every token.
        min_p: keep tokens of at least this share of the likeliest one's probability; 0 keeps every
            token. After the temperature and before `top_k` and `top_p`.
        seed: makes a sampled request repeatable, whatever else is in its batch.
        repetition_penalty: divides the logits of tokens already in prompt or output (CTRL,
            arXiv 1909.05858), from 0.01 to 100; 1 changes nothing.
        presence_penalty: subtracted from the logits of tokens in the output, from -2 to 2.
        frequency_penalty: subtracted once for each time that a token is in the output, -2 to 2.
        logit_bias: added to the logits of these token ids, from -100 to 100, before all else.
        stop: texts that end the generation (one, or up to 64), of up to 1,000 characters; a stop
            text is not part of the output.
        stop_token_ids: tokens that end the generation (up to 1,000), as the end token does.
        logprobs: None for none; n returns the log-probability (natural logarithm, of the
            distribution before temperature and filters) of each chosen token and of the n
            likeliest.
        prompt_logprobs: the same for each token of the prompt but the first. The prompt is then
            computed anew and its pages are not shared.
        structured_outputs: the form that the answer must have; it may be cut short by
            `max_tokens` or a stop. Needs `lragent[structured]`.
        distributions: keep the log-probabilities of the whole vocabulary at each generated
            position (`Completion.distributions`); for evaluations, since it takes much memory.
        ignore_eos: go on after the end-of-sequence token, for measurements.

    Raises:
        pydantic.ValidationError: a value is out of range or a field is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", revalidate_instances="always")

    n: int = Field(default=1, ge=1, le=128)
    max_tokens: int = Field(default=256, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.0, ge=0.0, le=1000.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, lt=2**31)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100.0, allow_inf_nan=False)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100.0, le=100.0)]] | None = None
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...],
        Field(max_length=64),
        BeforeValidator(_as_tuple),
    ] = ()
    stop_token_ids: Annotated[
        tuple[TokenId, ...], Field(max_length=1000), BeforeValidator(_as_tuple)
    ] = ()
    logprobs: int | None = Field(default=None, ge=0, le=100)
    prompt_logprobs: int | None = Field(default=None, ge=0, le=100)
    structured_outputs: StructuredOutputsParams | None = None
    distributions: bool = False
    ignore_eos: bool = False

    @field_validator("top_k", mode="before")
    @classmethod
    def _no_top_k(cls, value: object) -> object:
        return 0 if value == -1 else value

    @model_validator(mode="after")
    def _enough_room(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens must not be above max_tokens, {self.max_tokens}")
        if self.structured_outputs and (self.min_tokens or self.ignore_eos):
            raise ValueError(
                "structured_outputs end where they are complete: no min_tokens then, "
                "and no ignore_eos"
            )
        return self

    @field_validator("temperature")
    @classmethod
    def _not_almost_greedy(cls, value: float) -> float:
        # Logits divided by less could leave the range of float32.
        if 0 < value < 0.001:
            raise ValueError("must be 0 (greedy) or at least 0.001")
        return value

    def of_answer(self, index: int) -> SamplingParams:
        """Those of the request's answer of that number."""
        if index == 0:
            return self
        seed = None if self.seed is None else self.seed + index
        if seed is not None and seed >= 2**64:
            seed -= 2**64
        return self.model_copy(update={"seed": seed, "prompt_logprobs": None})

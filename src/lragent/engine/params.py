"""How a request wants its tokens chosen and when it wants to stop."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator


def _as_tuple(value: object) -> object:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


class SamplingParams(BaseModel):
    """Decoding options of one request.

    Attributes:
        max_tokens: most tokens to generate, at least 1.
        temperature: 0 is greedy; from 0.001 to 1,000 samples from `softmax(logits / temperature)`.
        top_p: nucleus mass in (0, 1]; 1 keeps every token.
        top_k: keep the k likeliest tokens; 0 keeps every token.
        seed: makes a sampled request repeatable, whatever else is in its batch.
        repetition_penalty: divides the logits of tokens already in prompt or output (CTRL,
            arXiv 1909.05858), from 0.01 to 100; 1 changes nothing.
        stop: texts that end the generation (one, or up to 64), of up to 1,000 characters; a stop
            text is not part of the output.
        logprobs: None for none; n returns the log-probability (natural logarithm, of the
            distribution before temperature and filters) of each chosen token and of the n
            likeliest.
        distributions: keep the log-probabilities of the whole vocabulary at each generated
            position (`Completion.distributions`); for evaluations, since it takes much memory.
        ignore_eos: go on after the end-of-sequence token, for measurements.

    Raises:
        pydantic.ValidationError: a value is out of range or a field is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", revalidate_instances="always")

    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0.0, le=1000.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, lt=2**31)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100.0, allow_inf_nan=False)
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...],
        Field(max_length=64),
        BeforeValidator(_as_tuple),
    ] = ()
    logprobs: int | None = Field(default=None, ge=0, le=100)
    distributions: bool = False
    ignore_eos: bool = False

    @field_validator("temperature")
    @classmethod
    def _not_almost_greedy(cls, value: float) -> float:
        # Logits divided by less could leave the range of float32.
        if 0 < value < 0.001:
            raise ValueError("must be 0 (greedy) or at least 0.001")
        return value

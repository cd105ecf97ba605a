"""Settings of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lragent.sharing import Policy

_Count = Annotated[int, Field(ge=1)]


class Limit(BaseModel):
    """How much a group may lose by sharing, for each role, against `isolated`.

    Attributes:
        nll_ratio: most times the negative log-likelihood of the role's outputs.
        nll_nats: nats a token more that are no loss, whatever the ratio: of a role that is nearly
            certain of its outputs, it says nothing.
        exact_points: most percentage points of outputs that greedy decoding writes exactly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nll_ratio: float = Field(default=1.03, ge=1.0)
    nll_nats: float = Field(default=0.01, ge=0.0)
    exact_points: float = Field(default=0.5, ge=0.0)


class EvalConfig(BaseModel):
    """What to measure, and how much of it.

    Attributes:
        model: base model, as `Engine` takes it.
        adapters: PEFT folders by role; together they are the group that is judged.
        policies: those to compare with `isolated`.
        per_role: samples of each role for the table of readers and the verdict.
        readers: how many of the other roles read each of them, in turn; all when None.
        lengths: context lengths in tokens, cut from the text.
        per_length: windows of text of each length; every role scores each of them.
        hand_overs: how many readers have a part of the context each.
        per_hand_over: samples of each role for that.
        turn: tokens that a role scores after a window of text.
        limit: what the verdict goes by.
        seed: of the choice of samples and of the bootstrap.
        device: default the GPU where there is one.
        kv_bytes: budget of the KV cache; default as for `Engine`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    adapters: dict[str, Path]
    policies: tuple[Policy, ...] = tuple(Policy)
    per_role: Annotated[int, Field(ge=2)] = 50
    readers: _Count | None = None
    lengths: tuple[_Count, ...] = Field(default=(512, 1024, 2048, 4096, 8192), min_length=1)
    per_length: _Count = 10
    hand_overs: tuple[_Count, ...] = Field(default=(1, 2, 4, 8, 16), min_length=1)
    per_hand_over: _Count = 10
    turn: _Count = 32
    limit: Limit = Limit()
    seed: int = 0
    device: str | None = None
    kv_bytes: int | None = None


QUICK: dict[str, Any] = {
    "policies": (Policy.NEUTRAL, Policy.BASE_LR),
    "per_role": 8,
    "readers": 1,
    "lengths": (128, 256),
    "per_length": 1,
    "hand_overs": (1, 8),
    "per_hand_over": 1,
}
"""Less of everything: a first answer within minutes on a CPU."""

"""What an engine chose, and how likely the tokens were that it might have chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A chosen token, its log-probability, and those of the likeliest tokens."""

    token: int
    logprob: float
    best: dict[int, float]


def choices_of(output: Any) -> list[Choice]:
    """What vLLM's output of a greedy request with log-probabilities says of each token."""
    found = []
    for token, row in zip(output.token_ids, output.logprobs, strict=True):
        best = {int(t): float(entry.logprob) for t, entry in row.items()}
        found.append(Choice(int(token), best[int(token)], best))
    return found


def choice_from_json(data: dict[str, Any]) -> Choice:
    """A choice from plain data."""
    best = {int(token): value for token, value in data["best"].items()}
    return Choice(data["token"], data["logprob"], best)

"""Differences of log-probabilities between two engines, and what rounding explains of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.gpu.agreement.choices import Choice, choice_from_json
from tests.gpu.agreement.program import Answers, Step

Pair = tuple[Choice, Choice]
NOT_A_NUMBER = 1e9
LEAST_FLOOR = 1e-5  # of log-probabilities in fp32, where two ways may round alike


@dataclass(frozen=True)
class Spread:
    """How two engines differ.

    Attributes:
        positions: places at which both were asked for the next token.
        max: largest difference of a log-probability, over the tokens among the likeliest of both; a
            choice that is not among the other's likeliest counts as the least likely of these.
        mean: mean of these differences.
        equal: share of places at which both choose the same token.
    """

    positions: int
    max: float
    mean: float
    equal: float

    def within(self, tolerance: tuple[float, float]) -> bool:
        """Whether largest and mean difference are tolerable."""
        return self.max <= tolerance[0] and self.mean <= tolerance[1]


def spread(pairs: Iterable[Pair]) -> Spread:
    """Sum up pairs of choices at the same places.

    Raises:
        ValueError: there are none, so nothing would be shown.
    """
    places = list(pairs)
    if not places:
        raise ValueError("no places to compare")
    differences = [value for pair in places for value in _differences(*pair)]
    return Spread(
        len(places),
        max(differences),
        sum(differences) / len(differences),
        sum(a.token == b.token for a, b in places) / len(places),
    )


def _differences(a: Choice, b: Choice) -> list[float]:
    found = [abs(a.best[token] - b.best[token]) for token in a.best.keys() & b.best.keys()]
    for one, other in ((a, b), (b, a)):
        if one.token not in other.best:  # then it differs at least by this
            found.append(abs(one.logprob - min(other.best.values())))
    return [value if math.isfinite(value) else NOT_A_NUMBER for value in found]


def same_places(a: Answers, b: Answers) -> Iterator[Pair]:
    """Choices after the same prompts."""
    for step_a, step_b in zip(a.choices, b.choices, strict=True):
        for row_a, row_b in zip(step_a, step_b, strict=True):
            yield from zip(row_a, row_b, strict=True)


def until_they_part(
    steps_a: Sequence[Step], a: Answers, steps_b: Sequence[Step], b: Answers
) -> Iterator[Pair]:
    """Choices of two engines that follow their own tokens, as long as these are the same."""
    for place, (step_a, step_b) in enumerate(zip(steps_a, steps_b, strict=True)):
        for row, (ask_a, ask_b) in enumerate(zip(step_a.asks, step_b.asks, strict=True)):
            if ask_a != ask_b:
                continue
            for pair in zip(a.choices[place][row], b.choices[place][row], strict=True):
                yield pair
                if pair[0].token != pair[1].token:
                    break


def tolerance(yardstick: Spread, floors: Sequence[Spread]) -> tuple[float, float]:
    """Largest and mean difference that rounding explains.

    Twice the yardstick (stock vLLM and the embedded engine, which differ in rounding alone) plus
    the floor: what one engine differs from itself in other batches or in graphs.
    """
    return (
        2 * yardstick.max + max([LEAST_FLOOR, *(floor.max for floor in floors)]),
        2 * yardstick.mean + max([LEAST_FLOOR, *(floor.mean for floor in floors)]),
    )


def same_hits(served: Answers, embedded: Answers, page: int) -> bool:
    """Whether vLLM reuses as many tokens, in whole pages, as the embedded engine."""
    return served.cached == [[n // page * page for n in row] for row in embedded.cached]


def answers_from_json(data: dict[str, Any]) -> Answers:
    """Answers from plain data."""
    choices = [[[choice_from_json(c) for c in row] for row in step] for step in data["choices"]]
    return Answers(choices, data["cached"])

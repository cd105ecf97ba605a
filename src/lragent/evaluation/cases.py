"""Which roles read a sample's context before its role writes: the arms of each measurement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lragent.evaluation.samples import EvalSample


class Series(StrEnum):
    """What a case is measured for."""

    READER = "reader"
    LENGTH = "length"
    HAND_OVERS = "hand-overs"


@dataclass(frozen=True)
class Reading:
    """How a context came into the cache.

    Attributes:
        readers: roles in the order in which they read. Each gets the context from its start, so it
            finds the pages of those before it and adds the next part of `1 / len(readers)`.
    """

    readers: tuple[str, ...]

    def ends(self, tokens: int) -> list[int]:
        """How many of the context's `tokens` each reader's prompt has."""
        count = len(self.readers)
        return [tokens * (i + 1) // count for i in range(count)]


@dataclass(frozen=True)
class Case:
    """A sample and the readings under which each policy is measured on it."""

    series: Series
    sample: EvalSample
    readings: tuple[Reading, ...]

    @property
    def key(self) -> str:
        """Tells the cases of one evaluation apart."""
        return f"{self.series}:{self.sample.id}"


def reader_cases(
    samples: Sequence[EvalSample], members: Sequence[str], readers: int | None = None
) -> list[Case]:
    """Each sample with other members as the one reader of the whole context.

    With `readers`, so many of them, who take turns from one sample of a role to its next.
    """
    cases, seen = [], Counter[str]()
    for sample in samples:
        others = [member for member in members if member != sample.role]
        first = seen[sample.role] % len(others)
        turn = (others[first:] + others[:first])[:readers]
        cases.append(Case(Series.READER, sample, tuple(Reading((m,)) for m in turn)))
        seen[sample.role] += 1
    return cases


def length_cases(samples: Sequence[EvalSample], members: Sequence[str]) -> list[Case]:
    """Each sample with the member before its role as reader."""
    return [Case(Series.LENGTH, s, (Reading(_turns(s.role, members, 1)),)) for s in samples]


def hand_over_cases(
    samples: Sequence[EvalSample],
    members: Sequence[str],
    counts: Sequence[int],
    page_size: int,
    per_role: int,
) -> list[Case]:
    """The `per_role` longest samples of each role, their contexts handed over `counts` times.

    The members take turns, and the role itself does not come last. A part shorter than a page
    would be read again by the next reader, so samples too short for the largest count are left out.
    """
    needed = max(counts) * page_size
    cases = []
    for role in members:
        fitting = [s for s in samples if s.role == role and len(s.context) >= needed]
        fitting.sort(key=lambda s: (-len(s.context), s.id))
        cases += [
            Case(Series.HAND_OVERS, s, tuple(Reading(_turns(role, members, n)) for n in counts))
            for s in fitting[:per_role]
        ]
    return cases


def _turns(role: str, members: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` members in turn, so that `role` comes next."""
    place = list(members).index(role)
    return tuple(members[(place - count + i) % len(members)] for i in range(count))

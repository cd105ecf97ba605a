"""The order in which a run sees its examples, fixed before it starts."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from lragent.training.encoding import Example

_POOL = 32
"""Batches whose examples are sorted by length together."""


class PlannedBatches:
    """Batches as lists of indices, each of one role and of similar lengths.

    Roles take turns, in proportion to their numbers of batches. The whole run is planned with one
    seed, so a resumed run goes on exactly where it stopped.
    """

    drop_last = False

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        epochs: float,
        seed: int,
        limit: int | None = None,
    ) -> None:
        """Plan `epochs` passes over the examples, or exactly `limit` batches where given."""
        self.batch_size = batch_size
        rng = random.Random(seed)
        by_role: dict[str, list[int]] = {}
        for index, example in enumerate(examples):
            by_role.setdefault(example.role, []).append(index)
        batches: list[list[int]] = []
        one_pass = sum(math.ceil(len(indices) / batch_size) for indices in by_role.values())
        wanted = limit or max(1, round(one_pass * epochs))
        while len(batches) < wanted:
            passes = [_one_pass(own, examples, batch_size, rng) for own in by_role.values()]
            batches += _take_turns(passes)
        self._batches = batches[:wanted]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def _one_pass(
    indices: Sequence[int], examples: Sequence[Example], batch_size: int, rng: random.Random
) -> list[list[int]]:
    order = rng.sample(list(indices), len(indices))
    batches = []
    for start in range(0, len(order), batch_size * _POOL):
        pool = order[start : start + batch_size * _POOL]
        pool.sort(key=lambda index: len(examples[index].ids))
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


def _take_turns(passes: list[list[list[int]]]) -> list[list[int]]:
    """Merge the roles' batches so that each role's are spread evenly over the pass."""
    places = [
        ((number + 0.5) / len(batches), role, batch)
        for role, batches in enumerate(passes)
        for number, batch in enumerate(batches)
    ]
    return [batch for _, _, batch in sorted(places, key=lambda place: place[:2])]

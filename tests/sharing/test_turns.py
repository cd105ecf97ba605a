"""Where a turn begins: the last occurrence of a few tokens in a long prompt."""

from __future__ import annotations

import random

import pytest

from lragent.sharing.turns import last_occurrence


def by_comparing(prompt: list[int], tokens: list[int]) -> int | None:
    starts = [i for i in range(len(prompt)) if prompt[i : i + len(tokens)] == tokens]
    return starts[-1] if starts and tokens else None


def test_agrees_with_comparing_at_every_place():
    drawn = random.Random(0)
    found = 0
    for _ in range(3000):
        # Ids whose bytes look alike: 1 lies in 256 and in 65536 too, at another place.
        ids = drawn.choice([[0, 1], [0, 1, 256, 65536], [2**40, 2**32, 1]])
        prompt = drawn.choices(ids, k=drawn.randrange(12))
        tokens = drawn.choices(ids, k=drawn.randrange(4))
        expected = by_comparing(prompt, tokens)
        assert last_occurrence(prompt, tokens) == expected
        found += expected is not None
    assert 500 < found < 2500


@pytest.mark.parametrize(("prompt", "tokens"), [([256, 0], [1]), ([0, 256, 0, 7], [1, 0])])
def test_bytes_between_two_tokens_are_no_token(prompt: list[int], tokens: list[int]):
    assert last_occurrence(prompt, tokens) is None

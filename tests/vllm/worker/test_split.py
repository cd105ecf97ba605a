"""Rows of attention of requests that cross from context to turn, against a plain loop."""

from __future__ import annotations

import random

import numpy as np

from lragent.vllm.worker.split import split_rows


def test_rows_are_those_of_a_plain_loop():
    rng = random.Random(1)
    for _ in range(200):
        scheduled = [rng.choice((1, 1, 2, 7, 30)) for _ in range(rng.randint(1, 9))]
        context = [rng.choice((0, n, rng.randint(0, n))) for n in scheduled]
        expected = []
        for index, (n, c) in enumerate(zip(scheduled, context, strict=True)):
            if c:
                expected.append((index, c, n - c, False))
            if n - c:
                expected.append((index, n - c, 0, True))
        split = split_rows(np.array(scheduled), np.array(context))
        if len(expected) == len(scheduled):
            assert split is None
            continue
        assert split is not None
        columns = (split.request, split.tokens, split.behind, split.acts)
        assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected
        assert split.total == sum(scheduled)

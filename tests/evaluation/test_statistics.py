from __future__ import annotations

import numpy as np
import pytest

from lragent.evaluation.statistics import Bootstrap


def test_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    table = np.stack([values, np.ones(400)], axis=1)
    found = Bootstrap(table, seed=0).estimate(lambda s: s[0] / s[1])
    error = values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_pairs_stay_together() -> None:
    """Samples differ a lot from each other, but each by the same factor from its partner."""
    values = np.random.default_rng(2).exponential(10.0, 50)
    found = Bootstrap(np.stack([1.25 * values, values], axis=1), seed=0).estimate(
        lambda s: s[0] / s[1]
    )
    assert (found.low, found.value, found.high) == pytest.approx((1.25, 1.25, 1.25))


def test_the_seed_decides() -> None:
    table = np.random.default_rng(3).normal(size=(20, 1))
    first, again, other = (Bootstrap(table, seed).estimate(lambda s: s[0]) for seed in (7, 7, 8))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_one_sample_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two samples"):
        Bootstrap(np.ones((1, 2)), seed=0)

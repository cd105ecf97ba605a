"""Bootstrap intervals, paired by sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % interval."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Percentile bootstrap (Efron 1979) of statistics that are functions of column sums.

    A row of the table holds all that was measured on one sample, under every policy compared, so
    drawing rows keeps the pairs together.

    Args:
        table: `[samples, columns]`.
        seed: of the resamples.

    Raises:
        ValueError: fewer than two samples.
    """

    def __init__(self, table: Table, seed: int):
        rows = len(table)
        if rows < 2:
            raise ValueError("an interval needs at least two samples")
        draws = np.random.default_rng(seed).multinomial(rows, [1 / rows] * rows, RESAMPLES)
        self._sums = np.vstack([table.sum(0), draws @ table])

    def estimate(self, statistic: Callable[[Table], Table]) -> Estimate:
        """The statistic and its interval; it gets the sums as `[columns, any number]`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            values = statistic(self._sums.T)
        low, high = np.percentile(values[1:], [2.5, 97.5])
        return Estimate(float(values[0]), float(low), float(high))

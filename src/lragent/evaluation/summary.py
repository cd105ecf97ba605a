"""Means with intervals over the measured cases, by policy, role, reader, length and hand-overs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from lragent.evaluation.cases import Series
from lragent.evaluation.journal import CaseResult
from lragent.evaluation.meter import BASE_MODEL, Measurement
from lragent.evaluation.statistics import Bootstrap, Estimate, Table


class Cell(BaseModel):
    """All arms of one policy that agree in the other keys; None where a key was not told apart.

    Attributes:
        samples: samples that the intervals are over.
        nll: nats a token of output.
        nll_ratio: divided by that of `isolated` on the same samples.
        nll_loss: nll minus that of `isolated`, nats a token.
        kl: nats a token.
        agreement: share of tokens at which the likeliest one is that of `isolated`.
        exact: percentage of outputs that greedy decoding writes exactly.
        exact_loss: that of `isolated` minus `exact`, in percentage points.
        recovery: (nll - the base model's) / (isolated's - the base model's): 1 keeps all that the
            adapters bring, 0 is as good as no adapter. None where the adapters bring nothing that
            is measurable here.
    """

    model_config = ConfigDict(frozen=True)

    policy: str
    role: str | None = None
    reader: str | None = None
    context: int | None = None
    hand_overs: int | None = None
    samples: int
    nll: Estimate
    nll_ratio: Estimate
    nll_loss: Estimate
    kl: Estimate
    agreement: Estimate
    exact: Estimate
    exact_loss: Estimate
    recovery: Estimate | None


def summarise(
    results: Iterable[CaseResult], series: Series, by: tuple[str, ...], seed: int
) -> list[Cell]:
    """The cells of a series. `by` names keys of `Cell`, beside the policy.

    Cells of fewer than two samples have no interval and are left out.
    """
    sums: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(dict)
    for result in results:
        if result.series is series:
            for arm, keys in _arms(result):
                cell = sums[(arm.policy, *(keys[name] for name in by))]
                before = cell.get(result.key, 0)
                cell[result.key] = before + _row(result, arm)
    return [
        _cell(dict(zip(("policy", *by), key, strict=True)), np.stack(list(rows.values())), seed)
        for key, rows in sums.items()
        if len(rows) > 1
    ]


def _arms(result: CaseResult) -> Iterator[tuple[Measurement, dict[str, Any]]]:
    for arm in result.arms:
        yield (
            arm,
            {
                "role": result.role,
                "reader": arm.readers[0] if len(arm.readers) == 1 else None,
                "context": result.context,
                "hand_overs": len(arm.readers),
            },
        )


class _Sums(NamedTuple):
    """Columns of the bootstrap's table: an arm's sums over a sample, and what they go against."""

    tokens: Table
    outputs: Table
    nll: Table
    kl: Table
    agreeing: Table
    exact: Table
    nll_isolated: Table
    exact_isolated: Table
    nll_base: Table


def _row(result: CaseResult, arm: Measurement) -> Table:
    isolated, base = result.arms[0], next(a for a in result.arms if a.policy == BASE_MODEL)
    compared = (isolated.nll, isolated.exact, base.nll)
    sums = (result.output, 1, arm.nll, arm.kl, arm.agreeing, arm.exact, *compared)
    return np.array(sums, dtype=np.float64)


def _cell(keys: dict[str, Any], table: Table, seed: int) -> Cell:
    bootstrap = Bootstrap(table, seed)

    def estimate(statistic: Callable[[_Sums], Table]) -> Estimate:
        return bootstrap.estimate(lambda sums: statistic(_Sums(*sums)))

    gain = estimate(lambda s: (s.nll_base - s.nll_isolated) / s.tokens)
    recovery = None
    if gain.low > 0:
        recovery = estimate(lambda s: (s.nll_base - s.nll) / (s.nll_base - s.nll_isolated))
    return Cell(
        **keys,
        samples=len(table),
        nll=estimate(lambda s: s.nll / s.tokens),
        nll_ratio=estimate(lambda s: s.nll / s.nll_isolated),
        nll_loss=estimate(lambda s: (s.nll - s.nll_isolated) / s.tokens),
        kl=estimate(lambda s: s.kl / s.tokens),
        agreement=estimate(lambda s: s.agreeing / s.tokens),
        exact=estimate(lambda s: 100 * s.exact / s.outputs),
        exact_loss=estimate(lambda s: 100 * (s.exact_isolated - s.exact) / s.outputs),
        recovery=recovery,
    )

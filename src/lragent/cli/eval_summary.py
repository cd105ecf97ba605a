"""What `lragent eval` found, for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lragent.evaluation.run import Evaluation
from lragent.evaluation.statistics import Estimate
from lragent.evaluation.summary import Cell


def summary(evaluation: Evaluation) -> Group:
    """A row for each policy and role, and the verdict."""
    table = Table(title="Scores of each role, 95 % intervals", title_justify="left", box=None)
    for column in ("policy", "role"):
        table.add_column(column)
    for column in ("NLL / isolated's", "KL (nats)", "exact (%)"):
        table.add_column(column, justify="right")
    for cell in evaluation.readers:
        table.add_row(*_row(cell))
    verdict = evaluation.verdict
    if verdict is None:
        return Group(table, Text("\nToo little was measured for a verdict.", style="bold"))
    lines = [f"\nVerdict: {verdict}.", *verdict.advice]
    return Group(table, Text("\n".join(lines), style="bold"))


def _row(cell: Cell) -> tuple[str, ...]:
    return (
        cell.policy,
        str(cell.role),
        shown(cell.nll_ratio, 2),
        shown(cell.kl, 2),
        shown(cell.exact, 0),
    )


def shown(estimate: Estimate, digits: int) -> str:
    """A value and its interval."""
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"

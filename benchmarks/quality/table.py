"""Tables of a result file of `benchmarks.quality.run`; see `benchmarks.tables`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]
Table = list[list[str]]


def tasks(result: Result) -> Table:
    """Every arm's scores on each task, and its difference to roles that share nothing."""
    table = [
        ["task", "questions", "trained for", "served", "exact or right, %", "F1", "finished, %",
         "loops, %", "difference, points", "p"]
    ]  # fmt: skip
    for name, task in result["tasks"].items():
        for arm in task["arms"]:
            trained, _, policy = arm["arm"].partition("/")
            against = next(iter(arm["differences"]), None)
            table.append(
                [
                    name,
                    str(task["questions"]),
                    trained if policy else "",
                    f"`{policy}`" if policy else trained,
                    interval(arm["exact"]),
                    f"{arm['f1']['value']:.1f}",
                    f"{arm['finished']['value']:.1f}",
                    f"{arm['loops']['value']:.1f}",
                    "" if against is None else interval(against["exact"], sign=True),
                    "" if against is None else f"{against['p']:.3f}",
                ]
            )
    return table


def similarity(result: Result) -> Table:
    """Cosine similarities of two agents' caches, over all layers, and at the first and last."""
    table = [["trained for", "context read by", "compared", "all layers", "first", "last", "norm"]]
    for training, rows in result["similarity"].items():
        cells = {
            (row["reads"], row["quantity"], row["layer"]): row
            for row in rows
            if row["depth"] is None
        }
        last = max(row["layer"] or 0 for row in rows)
        for reads, quantity in dict.fromkeys((row["reads"], row["quantity"]) for row in rows):
            found = [cells[reads, quantity, layer] for layer in (None, 0, last)]
            cosines = [f"{row['cosine']:.3f}" for row in found]
            table.append([training, reads, quantity, *cosines, f"{found[0]['norm']:.3g}"])
    return table


def training(result: Result) -> Table:
    """How far the fine-tuning of the base model and the training of the roles got."""
    table = [["trained", "role", "steps", "seconds", "first loss", "last loss", "held-out loss"]]
    if reader := result["reader"]:
        losses = reader["losses"]
        table.append(
            [
                "whole base model", "", str(reader["settings"]["steps"]),
                f"{reader['seconds']:.0f}", f"{losses[0][1]:.3f}", f"{losses[-1][1]:.3f}",
                f"{reader['held_out_losses'][-1][1]:.3f}",
            ]
        )  # fmt: skip
    for name, roles in result["roles"].items():
        for role, found in roles.items():
            losses = found["losses_by_10"]
            table.append(
                [
                    name, role, str(found["steps"]), f"{found['seconds']:.0f}",
                    f"{losses[0]:.3f}", f"{losses[-1]:.3f}", f"{found['eval_loss']:.3f}",
                ]
            )  # fmt: skip
    return table


def reading(result: Result) -> Table:
    """The fine-tuning of the base model alone (`reading.json`)."""
    points = [(0, None), *result["held_out_losses"]]
    exact = {0: result["exact_before"], points[-1][0]: result["exact"]}
    rows = [
        [
            str(step),
            "" if loss is None else f"{loss:.3f}",
            f"{exact[step]:.1f}" if step in exact else "",
        ]
        for step, loss in points
    ]
    return [["steps", "held-out loss", "whole outputs exact, %"], *rows]


def curve(result: Result, series: str, key: str, head: str) -> Table:
    """NLL divided by isolated's, by policy, along one of the meter's curves."""
    places = sorted(
        {cell[key] for found in result["meter"].values() for cell in found[series] if cell[key]}
    )
    table = [["trained for", "served", *(f"{place:,} {head}" for place in places)]]
    for training, found in result["meter"].items():
        cells = {(cell["policy"], cell[key]): cell for cell in found[series]}
        for policy in dict.fromkeys(cell["policy"] for cell in found[series]):
            if policy in ("isolated", "base model"):
                continue
            shown = [cells.get((policy, place)) for place in places]
            ratios = ["" if c is None else interval(c["nll_ratio"], digits=2) for c in shown]
            table.append([training, f"`{policy}`", *ratios])
    return table


def lengths(result: Result) -> Table:
    """Against the context's length."""
    return curve(result, "lengths", "context", "tokens")


def hand_overs(result: Result) -> Table:
    """Against the number of hand-overs."""
    return curve(result, "hand_overs", "hand_overs", "hand-overs")


def interval(estimate: Mapping[str, float], digits: int = 1, sign: bool = False) -> str:
    """A value with its 95 % interval."""
    form = f"{'+' if sign else ''}.{digits}f"
    value, low, high = (format(estimate[k], form) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"

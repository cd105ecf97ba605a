"""Tables of a result file of `benchmarks.quality.run`; see `benchmarks.tables`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.quality import TOGETHER

WORDS = {
    "neutral-page": "neutral, page",
    "isolated-own-a": "isolated, own A",
    "neutral-own-a": "neutral, own A",
    "base+lr-random": "base+lr, random readers",
}
"""Of the trainings whose names in `arms.py` say too little."""

Result = Mapping[str, Any]
Table = list[list[str]]


def tasks(result: Result) -> Table:
    """Every arm's scores on each task, and its difference to roles that share nothing."""
    heads = ["task", "trained for", "served", "right, %", "F1", "finished, %", "points"]
    table = [heads]
    for name, task in result["tasks"].items():
        if name == TOGETHER:
            continue
        for arm in task["arms"]:
            against = next(iter(arm["differences"]), None)
            table.append(
                [
                    name,
                    *_arm(arm),
                    interval(arm["exact"]),
                    f"{arm['f1']['value']:.1f}",
                    f"{arm['finished']['value']:.1f}",
                    "" if against is None else interval(against["exact"], sign=True),
                ]
            )
    return table


def together(result: Result) -> Table:
    """Every arm on the questions of all tasks, beside roles that share nothing."""
    heads = ["trained for", "served", "right, %", "finished, %", "points of right answers"]
    table = [heads]
    for arm in result["tasks"][TOGETHER]["arms"]:
        against = next(iter(arm["differences"]), None)
        table.append(
            [
                *_arm(arm),
                f"{arm['exact']['value']:.1f}",
                f"{arm['finished']['value']:.1f}",
                "" if against is None else interval(against["exact"], sign=True),
            ]
        )
    return table


def _arm(arm: Mapping[str, Any]) -> list[str]:
    trained, _, policy = arm["arm"].partition("/")
    return [named(trained) if policy else trained, f"`{policy}`" if policy else ""]


def similarity(result: Result) -> Table:
    """Cosine similarities of two agents' caches, over all layers and in the last, by training."""
    trainings = result["similarity"]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for training, rows in trainings.items():
        last = max(row["layer"] or 0 for row in rows)
        cosines = {
            (row["reads"], row["quantity"], row["layer"]): row["cosine"]
            for row in rows
            if row["depth"] is None
        }
        for reads, quantity in dict.fromkeys((row["reads"], row["quantity"]) for row in rows):
            found = [cosines[reads, quantity, layer] for layer in (None, last)]
            cells.setdefault((reads, quantity), {})[training] = f"{found[0]:.2f}, {found[1]:.2f}"
    table = [["context read by", "compared", *(named(name) for name in trainings)]]
    for where, found in cells.items():
        table.append([*where, *(found.get(training, "") for training in trainings)])
    return table


def training(result: Result) -> Table:
    """How far the fine-tuning of the base model and the training of the roles got."""
    table = [["trained", "role", "steps", "first loss", "last loss", "held-out loss"]]
    if reader := result["reader"]:
        losses = reader["losses"]
        table.append(
            [
                "whole base model", "", str(reader["settings"]["steps"]),
                f"{losses[0][1]:.3f}", f"{losses[-1][1]:.3f}",
                f"{reader['held_out_losses'][-1][1]:.3f}",
            ]
        )  # fmt: skip
    for name, roles in result["roles"].items():
        for role, found in roles.items():
            losses = found["losses_by_10"]
            table.append(
                [
                    named(name), role, str(found["steps"]),
                    f"{losses[0]:.3f}", f"{losses[-1]:.3f}", f"{found['eval_loss']:.3f}",
                ]
            )  # fmt: skip
    return table


def reading(result: Result) -> Table:
    """The fine-tuning of the base model."""
    reader = result["reader"]
    points = [(0, None), *reader["held_out_losses"]]
    exact = {0: reader["exact_before"], points[-1][0]: reader["exact"]}
    rows = [
        [
            str(step),
            "" if loss is None else f"{loss:.3f}",
            f"{exact[step]:.1f}" if step in exact else "",
        ]
        for step, loss in points
    ]
    return [["steps", "held-out loss", "whole outputs exact, %"], *rows]


def curve(result: Result, series: str, key: str) -> Table:
    """KL from isolated, in nats a token, by policy, along one of the meter's curves."""
    cells = {
        (training, cell["policy"], cell[key]): cell["kl"]["value"]
        for training, found in result["meter"].items()
        for cell in found[series]
        if cell[key] and cell["policy"] not in ("isolated", "base model")
    }
    places = sorted({place for _, _, place in cells})
    table = [["trained for", "served", *(f"{place:,}" for place in places)]]
    for training, policy in dict.fromkeys(cell[:2] for cell in cells):
        row = [cells.get((training, policy, place)) for place in places]
        numbers = ["" if kl is None else f"{kl:.3f}" for kl in row]
        table.append([named(training), f"`{policy}`", *numbers])
    return table


def lengths(result: Result) -> Table:
    """Against the context's length in tokens."""
    return curve(result, "lengths", "context")


def hand_overs(result: Result) -> Table:
    """Against the number of hand-overs."""
    return curve(result, "hand_overs", "hand_overs")


def named(training: str) -> str:
    """A training in words."""
    return WORDS.get(training, training)


def interval(estimate: Mapping[str, float], digits: int = 1, sign: bool = False) -> str:
    """A value with its 95 % interval."""
    form = f"{'+' if sign else ''}.{digits}f"
    value, low, high = (format(estimate[k], form) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"

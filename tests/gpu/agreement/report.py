"""Comparisons of the engines' answers, and whether they hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from benchmarks.common.files import save
from benchmarks.common.sources import HERE
from tests.gpu.agreement.cases import PAGE, STOCK, Case
from tests.gpu.agreement.compare import (
    Pair,
    Spread,
    answers_from_json,
    same_hits,
    same_places,
    spread,
    tolerance,
    until_they_part,
)
from tests.gpu.agreement.everywhere import pairs_everywhere, pairs_without
from tests.gpu.agreement.program import Answers, Step, steps_from_json

Row = dict[str, Any]
ISOLATED = "isolated"
KINDS = ("embedded", "stock", "everywhere", "mode")
"""Of comparisons that have to agree."""


@dataclass(frozen=True)
class Served:
    """A vLLM engine's answers: after given text, and after tokens of its own."""

    forced: Answers
    steps: list[Step]
    free: Answers


def served_from_json(data: Mapping[str, Any]) -> Served:
    """From a process's answer."""
    return Served(
        answers_from_json(data["forced"]),
        steps_from_json(data["steps"]),
        answers_from_json(data["free"]),
    )


def keep(variable: str, rows: Any, model: str) -> None:
    """Write comparisons to the file that an environment variable names, if it is set."""
    if out := os.environ.get(variable):
        found = {
            "hardware": machine.hardware(),
            "versions": machine.versions(),
            "source": HERE.digest(),
            "commit": os.environ.get("COMMIT") or machine.checked_out_commit(HERE.root),
            "model": model,
            "environment": machine.environment(),
            "rows": rows,
        }
        save(Path(out), found)


def rows_of(
    cases: Sequence[Case],
    served: Mapping[str, Mapping[str, Any]],
    embedded: Mapping[str, Mapping[str, Any]],
) -> list[Row]:
    """Yardstick, floors and control first, then every vLLM engine of the plugin.

    Args:
        cases: engines that were to run.
        served: answers of those that did, by name.
        embedded: answers of the embedded engine by policy.
    """
    ours = {name: served_from_json(data) for name, data in served.items()}
    replays = {
        name: answers_from_json(replay)
        for data in embedded.values()
        for name, replay in data["replays"].items()
    }
    texts = {policy: answers_from_json(data["forced"]) for policy, data in embedded.items()}
    stock = [case.name for case in cases if case.policy == STOCK and case.name in ours]
    rows: list[Row] = []

    def to_embedded(name: str, policy: str) -> dict[str, list[Pair]]:
        mine = ours[name]
        return {
            "text": list(same_places(mine.forced, texts[policy])),
            "own tokens": list(same_places(mine.free, replays[name])),
        }

    def to_vllm(name: str, other: str) -> dict[str, list[Pair]]:
        a, b = ours[name], ours[other]
        return {
            "text": list(same_places(a.forced, b.forced)),
            "own tokens": list(until_they_part(a.steps, a.free, b.steps, b.free)),
        }

    yardstick, floors = None, []
    if stock and ISOLATED in texts:
        pairs = to_embedded(stock[0], ISOLATED)
        yardstick = spread(chain(*pairs.values()))
        rows.append(row("yardstick", stock[0], "embedded", pairs))
        wide = {
            "text": list(
                same_places(answers_from_json(embedded[ISOLATED]["wide"]), texts[ISOLATED])
            )
        }
        floors.append(spread(wide["text"]))
        rows.append(row("floor", "embedded, in larger batches", "embedded", wide))
    for a, b in combinations(stock, 2):
        pairs = to_vllm(a, b)
        floors.append(spread(chain(*pairs.values())))
        rows.append(row("floor", a, b, pairs))
    limit = tolerance(yardstick, floors) if yardstick else None
    if ISOLATED in texts:
        other = answers_from_json(embedded[ISOLATED]["rotated"])
        pairs = {"text": list(same_places(other, texts[ISOLATED]))}
        rows.append(seen(row("control", "embedded, another adapter", "embedded", pairs), limit))
    for kind, control in served[stock[0]]["without"].items() if stock else ():
        pairs = pairs_without(served[stock[0]]["everywhere"], control)
        rows.append(seen(row("control", f"everywhere but {kind}", "everywhere", pairs), limit))
    plugin = [case for case in cases if case.policy != STOCK and case.name in ours]
    for case in plugin:
        name = case.name
        if case.policy in texts and name in replays:
            hits = same_hits(ours[name].free, replays[name], PAGE)
            rows.append(row("embedded", name, f"embedded, {case.policy}",
                            to_embedded(name, case.policy), limit, hits))  # fmt: skip
        if case.policy == ISOLATED and stock:
            rows.append(row("stock", name, stock[0], to_vllm(name, stock[0]), limit))
        if stock:
            pairs = pairs_everywhere(served[name]["everywhere"], served[stock[0]]["everywhere"])
            rows.append(row("everywhere", name, stock[0], pairs, limit))
        first = next(other for other in plugin if other.policy == case.policy)
        if first is not case:
            rows.append(row("mode", name, first.name, to_vllm(name, first.name), limit))
    return rows


def row(
    kind: str,
    subject: str,
    against: str,
    pairs: Mapping[str, Sequence[Pair]],
    limit: tuple[float, float] | None = None,
    hits: bool = True,
) -> Row:
    """One comparison; the kinds that have to agree get their tolerance and whether it holds."""
    total = spread(chain(*pairs.values()))
    found: Row = {"kind": kind, "subject": subject, "against": against, **plain(total)}
    found["of"] = {case: plain(spread(part)) for case, part in pairs.items()}
    if kind in KINDS:
        found |= {
            "same_hits": hits,
            "tolerance": limit,
            "holds": limit is not None and total.within(limit) and hits,
        }
    return found


def seen(control: Row, limit: tuple[float, float] | None) -> Row:
    """A control, which has to lie outside of the tolerance."""
    holds = limit is not None and control["mean"] > limit[1]
    return {**control, "tolerance": limit, "holds": holds}


def plain(found: Spread) -> dict[str, Any]:
    """A spread as plain data."""
    return {
        "positions": found.positions,
        "max": float(f"{found.max:.4g}"),
        "mean": float(f"{found.mean:.4g}"),
        "equal": round(found.equal, 4),
    }

"""What the acceptance limits of the plugin say about a result's rows."""

from __future__ import annotations

from typing import Any

from .policies import BOUND, HOST, ONE, STOCK
from .result import Result, key_of, ratio, ratio_in_turns

TTFT, SPEED, KV = "ttft_ms", "tokens_per_s", "kv_bytes"
OTHER_OVER_SAME = 1.15
WORKFLOW_OF_BOUND = 0.95
SPEED_OF_STOCK, TTFT_OF_STOCK, COLD_OF_STOCK, TOKENS_OF_STOCK = 0.97, 1.05, 1.08, 0.98
TRACE_OF_BOUND, TRACE_TTFT_OF_BOUND = 0.97, 1.05
BASE_OF_ISOLATED, TIGHT_BASE_OF_ISOLATED, KV_OF_ISOLATED = 0.97, 1.5, 0.36
LONG_PREFILL = 32768
OPEN_TTFT_MS = 1000


def summary(result: Result) -> list[dict[str, Any]]:
    """One entry for each limit that the rows allow to check: point, what, value, limit, holds."""
    rows = {key_of(row): row for row in result["rows"]}
    found: list[dict[str, Any]] = []

    def check(
        point: int,
        what: str,
        numerator: tuple[str, str, str],
        denominator: tuple[str, str, str],
        measure: str,
        limit: float,
        at_least: bool,
    ) -> None:
        top, bottom = rows.get(numerator, {}), rows.get(denominator, {})
        value = ratio(top, bottom, measure)
        if value is not None:
            across = {"across_calls": True} if top.get("call") != bottom.get("call") else {}
            found.append(_entry(point, what, value, limit, at_least) | across)

    for part, case, policy in rows:
        same, here = (part, case, STOCK), (part, case, policy)
        bound = (part, case, BOUND)
        what = f"{part} {case}, {policy}"
        if part == "handover" and policy == "base+lr" and rows[here]["kind"] == "other":
            name = f"{what}: TTFT over same adapter"
            warm = (part, case.replace("other", "same"), policy)
            check(1, name, here, warm, TTFT, OTHER_OVER_SAME, False)
            if "over_same" in rows[here]:
                beside = rows[here]["over_same"]
                found.append(_entry(1, f"{name}, beside it", beside, OTHER_OVER_SAME, False))
        if part == "workflow" and policy == "base+lr":
            check(2, f"{what}: speed over bound", here, bound, SPEED, WORKFLOW_OF_BOUND, True)
        if policy.endswith(ONE) or policy == "isolated":
            peer = bound if policy.endswith(ONE) else same
            check(3, f"{what}: speed over stock", here, peer, SPEED, SPEED_OF_STOCK, True)
            cold = part == "handover" and case == f"cold, {LONG_PREFILL}"
            limit = COLD_OF_STOCK if cold else TTFT_OF_STOCK
            name = f"{what}: TTFT over stock"
            check(3, name, here, peer, TTFT, limit, False)
            in_turns = ratio_in_turns(rows[here], rows.get(peer, {}))
            if in_turns is not None:
                found.append(_entry(3, f"{name}, request by request", in_turns, limit, False))
        if part == "trace" and policy == "base+lr":
            check(4, f"{what}: speed over bound", here, bound, SPEED, TRACE_OF_BOUND, True)
            check(4, f"{what}: TTFT over bound", here, bound, TTFT, TRACE_TTFT_OF_BOUND, False)
        if part in ("trace", "tight") and policy == "base":
            limit = BASE_OF_ISOLATED if part == "trace" else TIGHT_BASE_OF_ISOLATED
            isolated = (part, case, "isolated")
            check(4, f"{what}: speed over isolated", here, isolated, SPEED, limit, True)
        if part == "trace" and policy in ("base", "base+lr"):
            isolated = (part, case, "isolated")
            check(4, f"{what}: KV over isolated", here, isolated, KV, KV_OF_ISOLATED, False)
    return found + _capacity(result["engines"]) + _rates(result["rows"])


def _entry(point: int, what: str, value: float, limit: float, at_least: bool) -> dict[str, Any]:
    holds = value >= limit if at_least else value <= limit
    side = "at least" if at_least else "at most"
    return {
        "point": point,
        "what": what,
        "value": value,
        "limit": f"{side} {limit}",
        "holds": holds,
    }


def _capacity(engines: dict[str, Any]) -> list[dict[str, Any]]:
    """KV tokens of the engine with one slot of rank 16, over stock's, where vLLM measured them."""
    mine, stock = engines.get(f"agents, {HOST}"), engines.get(f"agents, {STOCK}")
    if not mine or not stock or "kv_cache_memory_bytes" in {**mine, **stock}:
        return []
    if mine.get("commit") != stock.get("commit"):
        return []
    value = round(mine["kv_tokens"] / stock["kv_tokens"], 4)
    what = f"KV capacity in tokens, {HOST}, over stock"
    return [_entry(3, what, value, TOKENS_OF_STOCK, True)]


def _rates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The highest rate of each policy up to which p90 TTFT stays under a second."""
    best: dict[str, float] = {}
    for policy in dict.fromkeys(row["policy"] for row in rows if row["part"] == "open"):
        best[policy] = 0.0
        mine = [row for row in rows if row["part"] == "open" and row["policy"] == policy]
        for row in sorted(mine, key=lambda row: row["rate"]):
            if row["given_up"] or row["ttft_p90_ms"] >= OPEN_TTFT_MS:
                break
            best[policy] = row["rate"]
    what = "highest rate with p90 TTFT under one second, trajectories a second"
    return [{"what": f"{what}, {policy}", "value": rate} for policy, rate in best.items()]

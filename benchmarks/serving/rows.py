"""Rows of the result: what a part measured, with medians and quantiles over its repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile by linear interpolation; `values` may be in any order.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no quantile of no values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def row(
    part: str,
    case: str,
    policy: str,
    *,
    ttft_s: Sequence[float] = (),
    tokens_per_s: Sequence[float] = (),
    kv_bytes: Sequence[int] = (),
    **more: Any,
) -> dict[str, Any]:
    """A row; each measure is the median over its values, with p20 and p80 beside it.

    Throughput has its single values too.

    Args:
        part: part of the benchmark.
        case: what was measured in it.
        policy: name from `policies`.
        ttft_s: time to the first token, in seconds, one a repeat.
        tokens_per_s: throughput, one a repeat.
        kv_bytes: peak bytes of the KV cache, one a repeat; the largest counts.
        more: further fields.
    """
    found: dict[str, Any] = {"part": part, "case": case, "policy": policy}
    for name, values in (
        ("ttft_ms", [1000 * value for value in ttft_s]),
        ("tokens_per_s", list(tokens_per_s)),
    ):
        found[name] = _round(quantile(values, 0.5)) if values else None
        if values:
            found[f"{name}_p20_p80"] = [_round(quantile(values, q)) for q in (0.2, 0.8)]
    if tokens_per_s:  # in their order: the first may be slower than the others
        found["tokens_per_s_each"] = [_round(value) for value in tokens_per_s]
    found["kv_bytes"] = max(kv_bytes) if kv_bytes else None
    found["repeats"] = max(len(ttft_s), len(tokens_per_s))
    return found | more


def handover_row(
    kind: str, context: int, policy: str, ttft_s: Sequence[float], in_turns: bool, **more: Any
) -> dict[str, Any]:
    """A row of the hand-over, with every time: those of engines that took turns can be paired.

    Args:
        kind: what was asked for.
        context: tokens of the prompt.
        policy: name from `policies`.
        ttft_s: times to the first token, in seconds, in the order of the requests.
        in_turns: the engines were asked in turns, request by request.
        more: further fields.
    """
    found = row("handover", f"{kind}, {context}", policy, ttft_s=ttft_s, context=context, kind=kind)
    each = [_round(1000 * value) for value in ttft_s]
    return found | {"in_turns": in_turns, "ttft_ms_each": each} | more


def over_same_fields(ratios: Sequence[float]) -> dict[str, Any]:
    """Hand-overs over the same adapter's requests beside them: the median, p20 and p80."""
    median, *around = (round(quantile(ratios, share), 4) for share in (0.5, 0.2, 0.8))
    return {"over_same": median, "over_same_p20_p80": around}


def _round(value: float) -> float:
    return float(f"{value:.5g}")


def open_row(
    case: str,
    policy: str,
    ttft_s: Sequence[float],
    trajectory_s: Sequence[float],
    tokens_per_s: float,
    **more: Any,
) -> dict[str, Any]:
    """A row of the open loop: p50, p90 and p99 over requests and over whole trajectories."""
    found: dict[str, Any] = {"part": "open", "case": case, "policy": policy}
    found["tokens_per_s"] = _round(tokens_per_s)
    found["ttft_ms"] = _round(1000 * quantile(ttft_s, 0.5))
    for share in (90, 99):
        found[f"ttft_p{share}_ms"] = _round(1000 * quantile(ttft_s, share / 100))
    for share in (50, 90, 99):
        found[f"trajectory_p{share}_s"] = _round(quantile(trajectory_s, share / 100))
    return found | {"requests": len(ttft_s), "trajectories": len(trajectory_s)} | more

"""Ratios between two source trees that were measured in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.serving.policies import OLD
from benchmarks.serving.rows import quantile

Row = Mapping[str, Any]
TIME, SPEED = "ttft_ms", "tokens_per_s"
MOST_TIME, LEAST_SPEED = 1.03, 0.97


def new_over_old(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """An entry for each measure of each case that both trees have.

    ``ratio`` is of the medians. Where engines took turns request by request, ``paired`` is the
    median over requests of one's time divided by the other's, which the host's changes of speed
    do not reach; then that counts. ``holds`` says that the new tree takes at most 1.03 times as
    long, or has at least 0.97 times the throughput.
    """
    found = {(row["part"], row["case"], row["policy"]): row for row in rows}
    entries = []
    for (part, case, policy), new in found.items():
        old = found.get((part, case, OLD + policy))
        if old is None:
            continue
        for measure in (TIME, SPEED):
            if not new[measure] or not old[measure]:
                continue
            ratio, paired = new[measure] / old[measure], paired_ratio(new, old)
            entry = {"part": part, "case": case, "policy": policy, "measure": measure}
            entry |= {"new": new[measure], "old": old[measure], "ratio": round(ratio, 4)}
            if paired is not None:
                entry["paired"] = paired
            value = entry.get("paired", entry["ratio"])
            holds = value <= MOST_TIME if measure == TIME else value >= LEAST_SPEED
            entries.append({**entry, "holds": holds})
    return entries


def paired_ratio(row: Row, other: Row) -> float | None:
    """The median over requests of one's TTFT divided by the other's; None unless in turns."""
    if not (row.get("in_turns") and other.get("in_turns")):
        return None
    pairs = zip(row["ttft_ms_each"], other["ttft_ms_each"], strict=True)
    return round(quantile([mine / peer for mine, peer in pairs], 0.5), 4)

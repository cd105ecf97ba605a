"""The result file: merging calls, and ratios between rows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .policies import BOUND, STOCK
from .rows import quantile

Result = dict[str, Any]
IDENTITY = ("hardware", "versions", "source", "model", "environment")
"""What calls have to agree in to stand in one file. ``source`` is a digest of the package; commits
may differ in documents and benchmarks, but no ratio is taken between rows of two commits."""


class MergeError(ValueError):
    """Two calls do not belong into one file."""


def check_identity(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to mix calls of different machines, versions, sources or models.

    Raises:
        MergeError: says in what they differ.
    """
    differ = [name for name in IDENTITY if old.get(name) != new.get(name)]
    if differ:
        lines = [f"{name}: {old.get(name)} there, {new.get(name)} now" for name in differ]
        raise MergeError(
            "the result file is of another machine, version or source; move it away or name "
            "another with --out\n  " + "\n  ".join(lines)
        )


def key_of(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a row is about; a later call's row replaces an earlier one."""
    return row["part"], row["case"], row["policy"]


def merge(old: Result, new: Result) -> Result:
    """`old` with the engines, rows and commit of `new`, and the ratios of all rows.

    Raises:
        MergeError: hardware, versions, source, model or environment differ.
    """
    check_identity(old, new)
    rows = {key_of(row): row for row in (*old["rows"], *new["rows"])}
    engines = {**old["engines"], **new["engines"]}
    both = {"engines": engines, "rows": with_ratios(list(rows.values()))}
    return {**old, "commit": new["commit"], **both}


def with_ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their ratios to the one-adapter bound and to stock in the same case.

    ``ratio_to_*`` is of tokens a second where there are any (more is better), else of TTFT (less is
    better); ``ttft_ratio_to_*`` is always of TTFT. ``across_calls`` says that a row of another call
    was taken: the same machine type, versions and commit, another start.
    """
    found = {key_of(row): row for row in rows}
    result = []
    for row in rows:
        ratios: dict[str, Any] = {"across_calls": False}
        for name, reference in (("bound", BOUND), ("stock", STOCK)):
            other = found.get((row["part"], row["case"], reference), {})
            ratios["across_calls"] |= bool(other) and other["call"] != row["call"]
            speed = ratio(row, other, "tokens_per_s")
            first = ratio(row, other, "ttft_ms")
            ratios[f"ratio_to_{name}"] = first if row["tokens_per_s"] is None else speed
            ratios[f"ttft_ratio_to_{name}"] = first
        result.append({**row, **ratios})
    return result


def ratio(row: Mapping[str, Any], other: Mapping[str, Any], measure: str) -> float | None:
    """One measure of a row over another's; None where either has none, or of two commits."""
    if row.get("commit") != other.get("commit"):
        return None
    if not row.get(measure) or not other.get(measure):
        return None
    return round(row[measure] / other[measure], 4)


def ratio_in_turns(row: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """The median over requests of one's TTFT over the other's; None unless both took turns.

    A host that is slow is slow for both, most so where the names come in the same order among those
    of their engines, which makes the turns neighbours.
    """
    if not (row.get("in_turns") and other.get("in_turns") and row["call"] == other["call"]):
        return None
    mine, peers = row["ttft_ms_each"], other["ttft_ms_each"]
    return round(quantile([a / b for a, b in zip(mine, peers, strict=True)], 0.5), 4)


def load(path: Path) -> Result | None:
    """The result file that is there; None without one."""
    return json.loads(path.read_text()) if path.exists() else None


def save(path: Path, result: Result) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)


def file_name(device: str, kind: str) -> str:
    """``serving-h100.json`` for an NVIDIA H100 and the kind ``serving``."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower().replace("nvidia ", "")).strip("-")
    return f"{kind}-{words.split('-')[0]}.json"

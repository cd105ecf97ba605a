"""Result files of calls that ran side by side become one."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.serving_parts.join import joined
from benchmarks.serving_parts.result import MergeError, with_ratios
from benchmarks.serving_parts.rows import row

IDENTITY = {"hardware": "h", "versions": "v", "source": "s", "model": "m", "environment": {}}


def result(rows: list[dict[str, Any]], call: int = 1, **more: Any) -> dict[str, Any]:
    engines = {f"engine {call}": {"start_s": call, "call": call, "commit": "c"}}
    return {
        **IDENTITY, "commit": "c", "gate": {"passed": True}, "engines": engines,
        "rows": with_ratios(rows), **more,
    }  # fmt: skip


def speed(case: str, policy: str, tokens: float, call: int) -> dict[str, Any]:
    return row("trace", case, policy, tokens_per_s=[tokens], call=call, commit="c")


def test_calls_are_told_apart():
    whole = joined([result([speed("a", "bound", 100, 1)]), result([speed("a", "base+lr", 90, 1)])])
    found = {entry["policy"]: entry for entry in whole["rows"]}
    assert {policy: entry["call"] for policy, entry in found.items()} == {"bound": 1, "base+lr": 2}
    assert found["base+lr"]["ratio_to_bound"] == 0.9
    assert found["base+lr"]["across_calls"]
    assert whole["summary"]


def test_what_began_as_a_copy_is_not_another_call():
    seed = [speed("a", "bound", 100, 1), speed("a", "base+lr", 90, 1)]
    grown = result([*seed, speed("a", "isolated", 50, 2)], call=2)
    other = result([*seed, speed("a", "base", 60, 2)], call=2)
    other["engines"] = {"other engine": {"start_s": 9, "call": 2, "commit": "c"}}
    whole = joined([result(seed), grown, other])
    calls = {entry["policy"]: entry["call"] for entry in whole["rows"]}
    assert calls == {"bound": 1, "base+lr": 1, "isolated": 2, "base": 3}
    assert {name: engine["call"] for name, engine in whole["engines"].items()} == {
        "engine 1": 1, "engine 2": 2, "other engine": 3,
    }  # fmt: skip
    base = next(entry for entry in whole["rows"] if entry["policy"] == "base+lr")
    assert not base["across_calls"]


def test_results_of_two_sources_stay_apart():
    with pytest.raises(MergeError, match="source"):
        joined([result([]), result([], source="other")])

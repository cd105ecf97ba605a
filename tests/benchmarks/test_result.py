"""Rows, ratios, merging, and the limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.serving_parts.machine import source
from benchmarks.serving_parts.result import MergeError, file_name, load, merge, save, with_ratios
from benchmarks.serving_parts.rows import (
    handover_row,
    open_row,
    over_same_fields,
    quantile,
    row,
)
from benchmarks.serving_parts.summary import summary

import lragent

IDENTITY = {
    "hardware": {"device": "NVIDIA H100 80GB HBM3", "driver": "1"},
    "versions": {"vllm": "0.29.0"},
    "source": "abc",
    "model": "m",
    "environment": {},
}


def result(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        **IDENTITY,
        "commit": "1",
        "gate": {"passed": True},
        "engines": {},
        "rows": list(rows),
        **more,
    }


def speed(case: str, policy: str, tokens: float, call: int = 1, **more: Any) -> dict[str, Any]:
    return row(more.pop("part", "workflow"), case, policy, tokens_per_s=[tokens], call=call, **more)


def by_key(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(r["case"], r["policy"]): r for r in rows}


def test_quantiles():
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([0, 10], 0.9) == pytest.approx(9)
    assert quantile([4], 0.99) == 4
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_a_row_has_medians_and_quantiles():
    found = row("trace", "1936", "stock", ttft_s=[0.001, 0.003, 0.002], kv_bytes=[5, 9])
    assert found["ttft_ms"] == 2
    assert found["ttft_ms_p20_p80"] == [1.4, 2.6]
    assert found["tokens_per_s"] is None
    assert found["kv_bytes"] == 9
    assert found["repeats"] == 3


def test_ratios():
    rows = with_ratios(
        [
            speed("a", "stock", 100, ttft_s=[2.0]),
            speed("a", "bound", 200, ttft_s=[0.5]),
            speed("a", "base+lr", 190, ttft_s=[1.0]),
            speed("b", "base+lr", 190),
            row("handover", "c", "stock", ttft_s=[4.0], call=1),
            row("handover", "c", "base", ttft_s=[1.0], call=2),
        ]
    )
    found = by_key(rows)
    assert found["a", "base+lr"]["ratio_to_bound"] == 0.95
    assert found["a", "base+lr"]["ratio_to_stock"] == 1.9
    assert found["a", "base+lr"]["ttft_ratio_to_bound"] == 2.0
    assert found["b", "base+lr"]["ratio_to_bound"] is None
    assert found["c", "base"]["ratio_to_stock"] == 0.25
    assert found["c", "base"]["across_calls"]
    assert not found["a", "base+lr"]["across_calls"]


def test_requests_of_the_same_turns_are_compared_in_pairs_too():
    """One slow request more, and a median of two speeds is the other speed."""
    fast, slow = 0.010, 0.020
    stock = [fast, fast, slow, slow, fast]
    mine = [1.04 * value for value in stock]
    mine[1] *= 2  # slow for one of both alone
    rows = [
        handover_row("same", 1024, "stock", stock, True, call=1),
        handover_row("same", 1024, "isolated", mine, True, call=1),
    ]
    medians, pairs = summary(result(*rows))
    assert (medians["value"], medians["holds"]) == (2.08, False)
    assert (pairs["value"], pairs["holds"]) == (1.04, True)
    for change in ({"call": 2}, {"in_turns": False}):
        (medians,) = summary(result(rows[0], rows[1] | change))
        assert medians["value"] == 2.08


def test_hand_overs_are_compared_with_what_was_asked_beside_them_too():
    rows = [
        handover_row("same", 1024, "base+lr", [0.010], True, call=1),
        handover_row(
            "other", 1024, "base+lr", [0.020], True, call=1, **over_same_fields([1.0, 1.1, 1.3])
        ),
    ]
    medians, beside = summary(result(*rows))
    assert (medians["value"], medians["holds"]) == (2.0, False)
    assert (beside["value"], beside["holds"]) == (1.1, True)


def test_no_ratio_between_two_commits():
    rows = [
        speed("a", "bound", 200, commit="1"),
        speed("a", "base+lr", 190, commit="2", call=2),
        speed("b", "bound", 200, commit="2"),
        speed("b", "base+lr", 190, commit="2", call=2),
    ]
    found = by_key(with_ratios(rows))
    assert found["a", "base+lr"]["ratio_to_bound"] is None
    assert found["b", "base+lr"]["ratio_to_bound"] == 0.95
    engines = {
        "agents, stock": {"kv_tokens": 1000, "commit": "1"},
        "agents, base+lr": {"kv_tokens": 990, "commit": "2"},
    }
    whats = [entry["what"] for entry in summary(result(*rows, engines=engines))]
    assert whats == ["workflow b, base+lr: speed over bound"]


def test_a_later_call_adds_rows_and_replaces_its_own():
    old = result(speed("a", "stock", 100), speed("b", "stock", 5), engines={"x": 1})
    new = result(speed("a", "stock", 200, call=2), engines={"y": 2}, commit="2")
    merged = merge(old, new)
    assert merged["engines"] == {"x": 1, "y": 2}
    assert merged["commit"] == "2"
    assert {key: r["tokens_per_s"] for key, r in by_key(merged["rows"]).items()} == {
        ("a", "stock"): 200,
        ("b", "stock"): 5,
    }


@pytest.mark.parametrize("name", list(IDENTITY))
def test_what_differs_is_not_merged(name: str):
    with pytest.raises(MergeError, match=f"{name}: .* there, .*other.* now"):
        merge(result(), {**result(), name: "other"})


def test_files(tmp_path: Path):
    path = tmp_path / "results" / "x.json"
    assert load(path) is None
    save(path, result(speed("a", "stock", 1)))
    assert load(path) == result(speed("a", "stock", 1))
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
    assert file_name("NVIDIA H100 80GB HBM3", "serving") == "serving-h100.json"
    assert file_name("NVIDIA H200", "engine") == "engine-h200.json"


def held(found: list[dict[str, Any]]) -> dict[str, bool]:
    return {entry["what"]: entry["holds"] for entry in found if "holds" in entry}


def test_limits_hold_or_not():
    trace: dict[str, Any] = {"part": "trace"}
    rows = [
        row("handover", "same, 1024", "base+lr", ttft_s=[0.010], call=1, kind="same"),
        row("handover", "other, 1024", "base+lr", ttft_s=[0.012], call=1, kind="other"),
        row("handover", "cold, 32768", "stock", ttft_s=[1.0], call=1, kind="cold"),
        row("handover", "cold, 32768", "isolated", ttft_s=[1.07], call=1, kind="cold"),
        speed("8 x 2048", "bound", 100),
        speed("8 x 2048", "base+lr", 95),
        speed("8 x 2048", "isolated-one", 96),
        speed("1936", "isolated", 100, kv_bytes=[300], **trace),
        speed("1936", "base", 96, kv_bytes=[108], **trace),
        speed("1936", "base+lr", 98, kv_bytes=[109], **trace),
        speed("1936", "bound", 100, ttft_s=[1.0], **trace),
        speed("8 x 17296", "isolated", 100, part="tight"),
        speed("8 x 17296", "base", 151, part="tight"),
    ]
    engines = {"agents, stock": {"kv_tokens": 1000}, "agents, base+lr": {"kv_tokens": 979}}
    found = held(summary(result(*rows, engines=engines)))
    assert found == {
        "handover other, 1024, base+lr: TTFT over same adapter": False,
        "handover cold, 32768, isolated: TTFT over stock": True,
        "workflow 8 x 2048, base+lr: speed over bound": True,
        "workflow 8 x 2048, isolated-one: speed over stock": False,
        "trace 1936, base: speed over isolated": False,
        "trace 1936, base: KV over isolated": True,
        "trace 1936, base+lr: speed over bound": True,
        "trace 1936, base+lr: KV over isolated": False,
        "tight 8 x 17296, base: speed over isolated": True,
        "KV capacity in tokens, base+lr, over stock": False,
    }


def test_highest_rate_ends_at_the_first_that_is_too_much():
    def at(rate: float, p90: float, policy: str, given_up: bool = False) -> dict[str, Any]:
        more = {"tokens_per_s": 1.0, "rate": rate, "given_up": given_up, "call": 1}
        return open_row(f"{rate:g}/s", policy, [p90], [2.0], **more)

    rows = [at(1, 0.2, "stock"), at(2, 1.5, "stock"), at(4, 0.5, "stock")]
    rows += [at(1, 0.1, "base"), at(2, 0.2, "base"), at(4, 0.3, "base", given_up=True)]
    rows += [at(1, 2.0, "full")]
    found = {entry["what"].rsplit(", ", 1)[1]: entry["value"] for entry in summary(result(*rows))}
    assert found == {"stock": 1, "base": 2, "full": 0.0}


def test_the_source_is_what_is_imported_without_compiled_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "deep" / "__pycache__").mkdir(parents=True)
    first, second = tmp_path / "__init__.py", tmp_path / "deep" / "data.json"
    first.write_text("a = 1")
    second.write_text("{}")
    monkeypatch.setattr(lragent, "__file__", str(first))
    digest = source()
    (tmp_path / "deep" / "__pycache__" / "data.pyc").write_text("x")
    assert source() == digest
    second.write_text("{ }")
    assert source() != digest
    second.rename(tmp_path / "data.json")
    assert source() != digest

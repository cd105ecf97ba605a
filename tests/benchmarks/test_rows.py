"""Rows, the ratios between source trees, and the result file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.common.files import file_name, load, save
from benchmarks.serving.compare import new_over_old
from benchmarks.serving.rows import handover_row, quantile, row


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


def test_throughput_keeps_the_order_of_the_repeats() -> None:
    found = row("trace", "a", "base+lr", tokens_per_s=[50, 100.123456])
    assert found["tokens_per_s_each"] == [50, 100.12]
    assert found["tokens_per_s"] == pytest.approx(75.06, abs=0.01)


def test_ratios_of_all_measures_that_both_trees_have():
    rows = [
        row("workflow", "a", "base+lr", ttft_s=[0.5], tokens_per_s=[97]),
        row("workflow", "a", "old:base+lr", ttft_s=[1.0], tokens_per_s=[100]),
        row("workflow", "b", "base+lr", tokens_per_s=[96]),
        row("workflow", "b", "old:base+lr", tokens_per_s=[100]),
        row("workflow", "c", "base+lr", tokens_per_s=[100]),
        row("workflow", "a", "stock", tokens_per_s=[90]),
    ]
    found = {(e["case"], e["measure"]): (e["ratio"], e["holds"]) for e in new_over_old(rows)}
    assert found == {
        ("a", "ttft_ms"): (0.5, True),
        ("a", "tokens_per_s"): (0.97, True),
        ("b", "tokens_per_s"): (0.96, False),
    }


def test_requests_of_the_same_turns_are_compared_in_pairs():
    """One slow request more, and a median of two speeds is the other speed."""
    fast, slow = 0.010, 0.020
    old = [fast, fast, slow, slow, fast]
    new = [1.02 * value for value in old]
    new[1] *= 2  # slow for one of both alone

    def compared(in_turns: bool) -> dict[str, Any]:
        rows = [
            handover_row("same", 1024, "base+lr", new, in_turns),
            handover_row("same", 1024, "old:base+lr", old, in_turns),
        ]
        [entry] = new_over_old(rows)
        return entry

    pairs, medians = compared(True), compared(False)
    assert (pairs["ratio"], pairs["paired"], pairs["holds"]) == (2.04, 1.02, True)
    assert "paired" not in medians
    assert not medians["holds"]


def test_files(tmp_path: Path):
    path = tmp_path / "results" / "x.json"
    save(path, {"rows": [1]})
    assert load(path) == {"rows": [1]}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
    assert file_name("NVIDIA H100 80GB HBM3", "serving") == "serving-h100.json"
    assert file_name("NVIDIA H200", "engine") == "engine-h200.json"

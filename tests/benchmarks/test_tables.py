"""The documents' tables are those of the result files, and their lines can be read."""

from __future__ import annotations

import pytest
from benchmarks.serving.table import cold, handover, old_new
from benchmarks.tables import documents, filled, markdown

LONGEST = 100


def test_documents_have_the_numbers_of_the_result_files():
    """If this fails, run ``python -m benchmarks.tables``."""
    assert [path.name for path in documents() if filled(path.read_text()) != path.read_text()] == []


def test_no_line_of_a_document_is_too_long():
    lines = [
        f"{path.name}:{number}: {len(line)} characters"
        for path in documents()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LONGEST
    ]
    assert lines == []


def test_a_number_that_was_typed_is_replaced():
    begin, end = "before\n<!-- table: embedded engine-h100.json -->\n", "<!-- end -->\nafter"
    text = filled(f"{begin}| typed |\n{end}")
    assert "typed" not in text
    assert text.startswith(f"{begin}| sequences |")
    assert text.endswith(f"|\n{end}")
    assert filled(text) == text


@pytest.mark.parametrize("marker", ["nothing engine-h100.json", "embedded nowhere.json"])
def test_a_marker_of_nothing_is_refused(marker: str):
    with pytest.raises(ValueError, match=r"nothing|nowhere"):
        filled(f"<!-- table: {marker} -->\n<!-- end -->")


def test_hand_overs_beside_stock_with_and_without_targets():
    def row(kind: str, policy: str, ms: float, **more: float) -> dict[str, object]:
        case = {"part": "handover", "case": f"{kind}, 1024", "context": 1024, "policy": policy}
        return {**case, "ttft_ms": ms, "tokens_per_s": None, **more}

    rows = [
        row("other", "stock", 50), row("other", "bound", 9), row("other", "stock-targets", 40),
        row("same", "base+lr", 10), row("other", "base+lr", 11, over_same=1.05),
        row("cold, no adapter", "stock", 20), row("cold", "stock", 60), row("cold", "base+lr", 21),
    ]  # fmt: skip
    assert handover({"rows": rows})[1] == [
        "1,024", "50.0 ms", "40.0 ms", "`base+lr`", "11.0 ms", "10.0 ms", "1.10", "1.05",
    ]  # fmt: skip
    assert cold({"rows": rows}) == [
        ["tokens", "1,024"], ["no adapter", "20.0 ms"],
        ["stock, 3 adapters", "3.00"], ["with targets, 3", ""], ["`base+lr`", "1.05"],
    ]  # fmt: skip


def test_two_source_trees():
    entry = {"part": "trace", "case": "1936", "policy": "base+lr", "measure": "tokens_per_s"}
    table = old_new({"new_over_old": [{**entry, "new": 900.0, "old": 1000.0, "ratio": 0.9}]})
    last = markdown(table).splitlines()[-1]
    assert last == "| trace | 1936 | `base+lr` | tokens/s | 1,000 | 900 | 0.900 |  |"

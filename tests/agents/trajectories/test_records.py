from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.agents.trajectories import hotpot

from lragent.agents.trajectories.records import RecordError, parse_record, read_records


def parse(record: dict[str, Any]):
    return parse_record(json.dumps(record))


def test_gold_pages_and_clean_text():
    record = parse(hotpot.BRIDGE)
    assert record is not None
    assert record.gold == ("Marta Quill", "Stone Bridge")
    assert not record.comparison
    assert dict(record.pages)["Alba"] == "Alba is a town. It was founded in 1204."
    assert "1848–1921" in dict(record.pages)["Marta Quill"]  # noqa: RUF001


def test_unnamed_gold_pages_are_found_when_certain():
    bridge = parse(hotpot.UNNAMED)
    assert bridge is not None
    assert set(bridge.gold) == {"Marta Quill", "Stone Bridge"}
    comparison = parse({**hotpot.YES_NO, "gold_titles": None, "type": None})
    assert comparison is not None
    assert (set(comparison.gold), comparison.comparison) == ({"Alba", "Kelm"}, True)


@pytest.mark.parametrize(
    "changes",
    [
        hotpot.UNCERTAIN,
        {"gold_titles": ["Alba", "Not there"]},
        {"gold_titles": ["Alba", "Alba"]},
        {"answer": " "},
        {"gold_titles": None, "answer": "town"},
    ],
    ids=["none-named", "missing-page", "one-page", "no-answer", "answer-in-many"],
)
def test_uncertain_records_are_left_out(changes: dict[str, Any]):
    assert parse({**hotpot.BRIDGE, **changes}) is None


def test_missing_file(tmp_path: Path):
    with pytest.raises(RecordError, match=r"hotpotqa_train\.jsonl\.gz is missing"):
        list(read_records(tmp_path))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"split": "dev"}, "line 2: split: Input should be 'train'"),
        ({"question": None}, "line 2: question: "),
        ({"context": [["Alba"]]}, "line 2: context"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, bad: dict[str, Any], message: str):
    folder = hotpot.write(tmp_path, [hotpot.BRIDGE, {**hotpot.BRIDGE, **bad}])
    with pytest.raises(RecordError, match=message):
        list(read_records(folder))

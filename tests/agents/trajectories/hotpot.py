"""Small records in the form of the data files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

BRIDGE: dict[str, Any] = {
    "id": "b1",
    "split": "train",
    "question": "In which town was the engineer who designed the Stone Bridge born?",
    "answer": "Norvick",
    "type": "bridge",
    "gold_titles": ["Marta Quill", "Stone Bridge"],
    "context": [
        ["Alba", ["Alba is a town.", " It was founded in 1204."]],
        ["Marta Quill", ["Marta Quill (1848&ndash;1921) was an engineer born in Norvick."]],
        ["Stone Bridge", ["The Stone Bridge lies in Alba.", " Marta Quill designed it in 1880."]],
        ["Kelm", ["Kelm is a town.", " It was founded in 1310."]],
    ],
}
COMPARISON: dict[str, Any] = {
    "id": "c1",
    "split": "train",
    "question": "Which town was founded first, Alba or Kelm?",
    "answer": "Alba",
    "type": "comparison",
    "gold_titles": ["Alba", "Kelm"],
    "context": BRIDGE["context"],
}
YES_NO: dict[str, Any] = {
    **COMPARISON,
    "id": "y1",
    "question": "Are Alba and Kelm both towns?",
    "answer": "yes",
}
# The second sentence lies beyond what Retrieve shows, so it has to be looked up.
LOOKUP: dict[str, Any] = {
    "id": "l1",
    "split": "train",
    "question": "Which sculptor carved the lions of the Stone Bridge?",
    "answer": "Ida Holm",
    "type": "bridge",
    "gold_titles": ["Stone Bridge", "Lion Works"],
    "context": [
        ["Stone Bridge", ["The Stone Bridge has lions made by Lion Works."]],
        [
            "Lion Works",
            [
                "Lion Works was a company in Kelm.",
                f" It {'made many things of stone and ' * 9}iron.",
                f" It {'sold many things of stone and ' * 9}iron.",
                " Its lions were drawn by the sculptor Ida Holm.",
            ],
        ],
        ["Kelm", ["Kelm is a town."]],
    ],
}
UNNAMED: dict[str, Any] = {
    **BRIDGE,
    "id": "u1",
    "question": "Where was the designer of the Stone Bridge born?",
    "type": None,
    "gold_titles": None,
}
UNCERTAIN: dict[str, Any] = {**UNNAMED, "id": "u2", "question": "Who was born?"}
ALL = [BRIDGE, COMPARISON, YES_NO, LOOKUP, UNNAMED, UNCERTAIN]


def write(folder: Path, records: list[dict[str, Any]]) -> Path:
    """A data folder with these records."""
    with gzip.open(folder / "hotpotqa_train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return folder

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lragent.evaluation import EvaluationError
from lragent.evaluation.tasks import read_task
from lragent.evaluation.tasks.sources import DATA_VARIABLE

HOT = {
    "id": "h1",
    "question": "Where is  Alba &amp; Co?",
    "answer": "Oss",
    "context": [["Alba", ["Alba is in Oss.", " It is small."]], ["Empty", []]],
}
MUSIQUE = HOT | {"id": "m1", "answer_aliases": ["River Oss"], "split": "eval"}
CHOICE = {"id": "7", "question": "Which is\nsolid?", "choices": ["rain", "a hammer"], "answer": 1}


def write(folder: Path, name: str, *rows: Any) -> None:
    with gzip.open(folder / name, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "hotpotqa_dev.jsonl.gz", HOT, *(HOT | {"id": f"h{i}"} for i in range(2, 9)))
    write(tmp_path, "musique_eval.jsonl.gz", MUSIQUE)
    write(tmp_path, "scienceqa_text_test.jsonl.gz", CHOICE)
    write(tmp_path, "scienceqa_text_train.jsonl.gz", CHOICE | {"id": "9", "question": "Solid?"})
    return tmp_path


def test_pages_and_answers(folder: Path):
    task = read_task("musique", folder)
    (question,) = task.questions
    assert question.question == "Where is Alba & Co?"
    assert question.pages == (("Alba", "Alba is in Oss. It is small."),)
    assert question.exact("the river Oss")
    assert question.f1("Oss river basin") == pytest.approx(0.8)
    assert not question.exact(None)
    assert task.store(question).find("alba") is not None


def test_choices_and_the_library(folder: Path):
    task = read_task("scienceqa", folder)
    (question,) = task.questions
    assert question.question == "Which is solid? Options: (A) rain (B) a hammer"
    assert task.store(question).documents[0].text == "Solid? The answer is a hammer"
    assert [question.exact(text) for text in ("a hammer", "B", "(b)", "Hammer.")] == [True] * 4
    assert [question.exact(text) for text in ("rain", "C", "a", "")] == [False] * 4
    assert question.f1("rain") == 0


def test_options_that_differ_in_case_only(folder: Path):
    options = {"choices": ["Dear grandma,", "Dear Grandma,"], "answer": 1}
    write(folder, "scienceqa_text_test.jsonl.gz", CHOICE | options)
    (question,) = read_task("scienceqa", folder).questions
    assert question.exact("Dear Grandma,")
    assert not question.exact("Dear grandma,")
    assert not question.exact("dear grandma")


def test_more_questions_begin_with_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(DATA_VARIABLE, str(folder))
    few, many = read_task("hotpotqa", count=3), read_task("hotpotqa", count=8)
    assert few.questions == many.questions[:3]
    assert [q.id for q in many.questions] != [f"h{i}" for i in range(1, 9)]


def test_a_saved_task_is_the_same(folder: Path, tmp_path: Path):
    task = read_task("scienceqa", folder)
    task.save(tmp_path / "task.json.gz")
    assert type(task).load(tmp_path / "task.json.gz") == task
    (tmp_path / "task.json.gz").write_bytes(b"x")
    with pytest.raises(EvaluationError, match="no saved task"):
        type(task).load(tmp_path / "task.json.gz")


def test_from_the_hub(monkeypatch: pytest.MonkeyPatch):
    asked = []
    hub = {
        "hotpotqa/hotpot_qa": [
            HOT | {"context": {"title": ["Alba"], "sentences": [["Alba is", " small."]]}}
        ],
        "dgslibisey/MuSiQue": [
            {k: v for k, v in MUSIQUE.items() if k != "context"}
            | {"paragraphs": [{"title": "Alba", "paragraph_text": "It is small."}]}
        ],
        "derek-thomas/ScienceQA": [
            {k: v for k, v in CHOICE.items() if k != "id"} | {"hint": "Think.", "image": image}
            for image in (object(), None)
        ],
    }

    def load_dataset(name: str, configuration: str | None, split: str) -> list[Any]:
        asked.append((name, configuration, split))
        return hub[name]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert read_task("hotpotqa", hub=True).questions[0].pages == (("Alba", "Alba is small."),)
    assert read_task("musique", hub=True).questions[0].pages == (("Alba", "It is small."),)
    (question,) = read_task("scienceqa", hub=True).questions
    assert question.question.startswith("Think. Which is solid? Options:")
    assert asked == [
        ("hotpotqa/hotpot_qa", "distractor", "validation"),
        ("dgslibisey/MuSiQue", None, "validation"),
        ("derek-thomas/ScienceQA", None, "test"),
        ("derek-thomas/ScienceQA", None, "train"),
    ]


def test_what_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(EvaluationError, match=DATA_VARIABLE):
        read_task("hotpotqa")
    with pytest.raises(EvaluationError, match="there are hotpotqa, 2wiki"):
        read_task("hotpot", folder)
    with pytest.raises(EvaluationError, match=r"2wiki_dev\.jsonl\.gz is missing"):
        read_task("2wiki", folder)
    write(folder, "2wiki_dev.jsonl.gz", {"id": "1", "question": "Who?"})
    with pytest.raises(EvaluationError, match="answer: Field required"):
        read_task("2wiki", folder)
    write(folder, "2wiki_dev.jsonl.gz", HOT | {"context": []})
    with pytest.raises(EvaluationError, match="no pages"):
        read_task("2wiki", folder)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EvaluationError, match="pip install datasets"):
        read_task("hotpotqa", hub=True)

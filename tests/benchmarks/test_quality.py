"""The driver's parts, on files that the tests write."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.common.files import save
from benchmarks.quality import LOG, READING, ROLES_TRAIN, TASK_FILE, table
from benchmarks.quality.arms import BASE_MODEL, REFERENCE, ROLES, file_of
from benchmarks.quality.pack import make
from benchmarks.quality.run import collect, run_stage, stages, write_answers
from tests.agents.trajectories.hotpot import BRIDGE, COMPARISON, YES_NO

from lragent.agents import Status
from lragent.evaluation.journal import Journal
from lragent.evaluation.tasks import Answer, Task

SETTINGS: dict[str, Any] = {
    "base_steps": 1,
    "trainings": ["isolated", "neutral"],
    "arms": [],
    "meters": ["neutral", "base+lr"],
    "speed_questions": 0,
    "steps": ["base", "roles", "answers", "meter", "speed"],
}


def test_steps_come_after_what_they_need():
    base, roles, answers, similarity, speed, meter = stages(SETTINGS)
    assert base == ["base"]
    assert roles == ["roles:isolated", "roles:neutral"]
    assert {"answers:base model", "answers:isolated/base+lr", "answers:neutral/neutral"} <= {
        *answers
    }
    assert not any("base+lr/" in step or "own-a" in step for step in answers)
    assert meter == ["meter:neutral"]
    assert similarity == speed == []
    few = stages(SETTINGS | {"arms": ["neutral/neutral"], "base_steps": 0, "steps": ["answers"]})
    assert few == [[], [], ["answers:neutral/neutral"], [], [], []]


def answer(key: str, exact: bool) -> Answer:
    return Answer(
        key=key, status=Status.ANSWERED, answer="x", exact=exact, f1=float(exact), steps=2, calls=8,
        tool_errors=0, prompt_tokens=90, reused_tokens=60, generated_tokens=9, transcript="long",
    )  # fmt: skip


def test_results_are_collected_from_what_is_there(tmp_path: Path):
    for arm, right in ((BASE_MODEL, 0), (REFERENCE, 6), ("neutral/neutral", 8)):
        path = tmp_path / "answers" / file_of(arm) / "hotpotqa.jsonl"
        journal = Journal(path, Answer, {"arm": arm})
        for i in range(10):
            journal.add(answer(str(i), i < right))
    losses = {"losses": [[1, 4.0], [9, 2.0]], "held_out_losses": [[9, 2.5]], "seconds": 3}
    save(tmp_path / "reader" / LOG, losses | {"settings": {"steps": 9}})
    role = {"role": "plan", "samples": 5, "dropped": 0, "steps": 20, "seconds": 2.0}
    role |= {"eval_loss": 0.5, "a_digests": {}, "losses": [3.0] * 10 + [1.0] * 10}
    save(tmp_path / "roles" / "neutral" / "report.json", {"roles": [role]})
    result = collect(SETTINGS, tmp_path, "abc")
    rows = table.tasks(result)
    assert [row[2:5] for row in rows[1:]] == [
        ["", "base model", "0.0 [0.0, 0.0]"],
        ["isolated", "`isolated`", rows[2][4]],
        ["neutral", "`neutral`", rows[3][4]],
    ]
    assert rows[3][4].startswith("80.0 [")
    assert rows[3][8].startswith("+20.0 [+0.0, ")
    assert table.training(result)[1:] == [
        ["whole base model", "", "9", "3", "4.000", "2.000", "2.500"],
        ["neutral", "plan", "20", "2", "3.000", "1.000", "0.500"],
    ]
    write_answers(tmp_path, tmp_path / "answers.jsonl.gz")
    lines = gzip.decompress((tmp_path / "answers.jsonl.gz").read_bytes()).decode().splitlines()
    assert len(lines) == 30
    assert json.loads(lines[10]).items() >= {"arm": REFERENCE, "key": "0", "exact": True}.items()
    assert "transcript" not in lines[0]


def test_a_step_that_is_done_is_not_run_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    settings = tmp_path / "settings.json"
    save(settings, {"work": str(tmp_path)})
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "base").touch()
    assert run_stage(["base"], settings, tmp_path, until=1e12) == {}
    ended = run_stage(["unknown"], settings, tmp_path, until=1e12)
    assert ended["unknown"]["code"] == 1
    assert "KeyError: 'unknown'" in capfd.readouterr().err
    assert not (tmp_path / "done" / "unknown").exists()


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_packed_samples_and_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lragent.evaluation.tasks.sources.LIBRARY", 2)
    data, out = tmp_path / "data", tmp_path / "pack"
    data.mkdir()
    choice = {"question": "Which is solid?", "choices": ["rain", "a hammer"], "answer": 1}
    choices = [choice | {"id": str(i), "question": f"Which is solid ({i})?"} for i in range(4)]
    unseen = [BRIDGE | {"id": "d1", "split": "dev"}, COMPARISON | {"id": "d2", "split": "dev"}]
    musique = BRIDGE | {"id": "m1", "gold_titles": None, "gold_idx": [1, 2]}
    for name, records in {
        "hotpotqa_train": [BRIDGE, COMPARISON],
        "2wiki_train": [YES_NO],
        "musique_train": [musique],
        "scienceqa_text_train": choices,
        "hotpotqa_dev": unseen,
        "2wiki_dev": unseen,
        "musique_eval": unseen,
        "scienceqa_text_val": choices,
        "scienceqa_text_test": choices,
    }.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (data / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    make(data, out, questions=1, choices=1, held_out=2)
    roles = rows(out / ROLES_TRAIN)
    assert {row["role"] for row in roles} == {*ROLES}
    assert any("Options:" in row["input"][1]["content"] for row in roles)
    texts = [(row["input"][1]["content"], row["output"]) for row in rows(out / READING)]
    outputs = [output for _, output in texts]
    assert outputs.count("The answer is a hammer<|im_end|>") == 4
    known = [text for text, output in texts if output.endswith("The answer is Norvick.<|im_end|>")]
    assert len(known) == 4, "two of the HotpotQA question, two of the MuSiQue one"
    assert all("Marta Quill: " in text and "Stone Bridge: " in text for text in known)
    assert any(output.startswith("Marta Quill was an engineer born in") for output in outputs)
    task = Task.load(out / TASK_FILE.format("scienceqa"))
    assert len(task.questions) == 1
    assert len(task.pages) == 2

"""The driver's parts, on files that the tests write."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks.common.files import load, save
from benchmarks.quality import LOG, READING, ROLES_TRAIN, TASK_FILE, TOGETHER, figure, run, table
from benchmarks.quality.arms import BASE_MODEL, REFERENCE, ROLES, file_of
from benchmarks.quality.pack import make
from benchmarks.quality.run import all_steps, collect, run_steps, write_answers
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
ONE_BY_ONE = {"base_steps": 0, "parallel": 1, "parallel_trainings": 1}


def test_steps_are_those_asked_for():
    steps = all_steps(SETTINGS)
    assert steps[:3] == ["base", "roles:isolated", "roles:neutral"]
    assert {"answers:base model", "answers:isolated/base+lr", "answers:neutral/neutral"} <= {*steps}
    assert not any("base+lr/" in step or "own-a" in step for step in steps)
    assert steps[-1] == "meter:neutral"
    few = SETTINGS | {"arms": ["neutral/neutral"], "base_steps": 0, "steps": ["answers"]}
    assert all_steps(few) == ["answers:neutral/neutral"]


def test_each_seed_has_roles_of_its_own():
    steps = all_steps(SETTINGS | {"arms": [REFERENCE], "seeds": 2, "meters": []})
    assert steps == [
        "base", "roles:isolated", "roles:neutral", "roles:isolated@1", "roles:neutral@1",
        f"answers:{REFERENCE}", f"answers:{REFERENCE}@1",
    ]  # fmt: skip
    assert run.needs(f"answers:{REFERENCE}@1", SETTINGS) == ["base", "roles:isolated@1"]
    assert run.needs(f"answers:{BASE_MODEL}@1", SETTINGS) == ["base"]


def answer(key: str, exact: bool) -> Answer:
    return Answer(
        key=key, status=Status.ANSWERED, answer="x", exact=exact, f1=float(exact), steps=2, calls=8,
        tool_errors=0, prompt_tokens=90, reused_tokens=60, generated_tokens=9, transcript="long",
    )  # fmt: skip


def test_results_are_collected_from_what_is_there(tmp_path: Path):
    begun = "isolated/full"  # and cut after a few questions
    for arm, right in ((BASE_MODEL, 0), (REFERENCE, 6), ("neutral/neutral", 8), (begun, 1)):
        path = tmp_path / "answers" / file_of(arm) / "hotpotqa.jsonl"
        journal = Journal(path, Answer, {"arm": arm})
        for i in range(4 if arm == begun else 10):
            journal.add(answer(str(i), i < right))
    losses = {"losses": [[1, 4.0], [9, 2.0]], "held_out_losses": [[9, 2.5]], "seconds": 3}
    save(tmp_path / "reader" / LOG, losses | {"settings": {"steps": 9}})
    role = {"role": "plan", "samples": 5, "dropped": 0, "steps": 20, "seconds": 2.0}
    role |= {"eval_loss": 0.5, "a_digests": {}, "losses": [3.0] * 10 + [1.0] * 10}
    save(tmp_path / "roles" / "neutral" / "report.json", {"roles": [role]})
    metered = {"model": f"{tmp_path}/reader", "cases": 1}
    save(tmp_path / "meter" / "neutral" / "result.json", metered)
    result = collect(SETTINGS | {"work": str(tmp_path), "pack": "x"}, tmp_path, "abc")
    assert result["meter"] == {"neutral": {"model": "reader"}}
    assert str(tmp_path) not in json.dumps(result)
    assert result["settings"] == SETTINGS
    assert result["tasks"]["hotpotqa"]["questions"] == 10
    rows = table.tasks(result)
    assert [row[1:4] for row in rows[1:]] == [
        ["base model", "", "0.0 [0.0, 0.0]"],
        ["isolated", "`isolated`", rows[2][3]],
        ["neutral", "`neutral`", rows[3][3]],
    ]
    assert rows[3][3].startswith("80.0 [")
    assert rows[3][6].startswith("+20.0 [+0.0, ")
    assert TOGETHER not in result["tasks"], "there is one task"
    for arm, right in ((REFERENCE, 10), ("neutral/neutral", 5)):
        journal = Journal(tmp_path / "answers" / file_of(arm) / "scienceqa.jsonl", Answer, {})
        for i in range(10):
            journal.add(answer(str(i), i < right))
    result = collect(SETTINGS, tmp_path, "abc")
    assert result["tasks"][TOGETHER]["questions"] == 20
    assert table.tasks(result)[:4] == rows
    _, isolated, neutral = table.together(result)
    assert isolated == ["isolated", "`isolated`", "80.0", "100.0", ""]
    assert neutral[2] == "65.0"
    assert neutral[4].startswith("-15.0 [")
    axis = figure.draw(result).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "trained for isolated; served isolated",
        "trained for neutral; served neutral",
    ]
    assert table.training(result)[1:] == [
        ["whole base model", "", "9", "4.000", "2.000", "2.500"],
        ["neutral", "plan", "20", "3.000", "1.000", "0.500"],
    ]
    write_answers(tmp_path, tmp_path / "answers.jsonl.gz")
    lines = gzip.decompress((tmp_path / "answers.jsonl.gz").read_bytes()).decode().splitlines()
    assert len(lines) == 54
    assert json.loads(lines[10]).items() >= {"arm": REFERENCE, "key": "0", "exact": True}.items()
    assert "transcript" not in lines[0]


def test_similarities_by_training():
    rows = [
        {"reads": "itself", "quantity": "K", "layer": layer, "depth": None, "cosine": cosine}
        for layer, cosine in ((None, 0.5), (0, 1.0), (1, 0.25))
    ] + [{"reads": "itself", "quantity": "K", "layer": None, "depth": 512, "cosine": 0.125}]
    assert table.similarity({"similarity": {"isolated-own-a": rows}}) == [
        ["context read by", "compared", "isolated, own A"],
        ["itself", "K", "0.50, 0.25"],
    ]


def test_curves_of_the_meter():
    cells = [
        {"policy": policy, "context": context, "kl": {"value": kl}}
        for policy, context, kl in (
            ("isolated", 512, 0.0), ("base model", 512, 0.9), ("neutral", 512, 0.25),
            ("neutral", 1024, 0.125), ("base", None, 0.5), ("full", 1024, 0.0625),
        )
    ]  # fmt: skip
    assert table.lengths({"meter": {"neutral-page": {"lengths": cells}}}) == [
        ["trained for", "served", "512", "1,024"],
        ["neutral, page", "`neutral`", "0.250", "0.125"],
        ["neutral, page", "`full`", "", "0.062"],
    ]


def test_a_step_that_is_done_is_not_run_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    save(tmp_path / "settings.json", {"work": str(tmp_path)})
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "base").touch()
    assert run_steps(["base"], ONE_BY_ONE, tmp_path, until=1e12) == {}
    ended = run_steps(["unknown"], ONE_BY_ONE, tmp_path, until=1e12)
    assert ended["unknown"]["code"] == 1
    assert "KeyError: 'unknown'" in capfd.readouterr().err
    assert not (tmp_path / "done" / "unknown").exists()


class Steps:
    """Stands for the steps' processes, each of which ends at the second look at it."""

    def __init__(self, work: Path, codes: dict[str, list[int]]) -> None:
        """`codes`: exit codes of a step's tries, 0 where there are none."""
        self.work = work
        self.codes = codes
        self.started: list[str] = []
        self.beside: dict[str, int] = {}
        self.running = 0
        self.most = 0

    def __call__(self, command: list[str], **settings: Any) -> Steps.Process:
        self.started.append(command[3])
        self.beside[command[3]] = self.running
        self.running += 1
        self.most = max(self.most, self.running)
        return self.Process(self, command[3])

    class Process:
        def __init__(self, steps: Steps, step: str) -> None:
            self.steps, self.step, self.looks = steps, step, 0

        def poll(self) -> int | None:
            self.looks += 1
            if self.looks < 2:
                return None
            self.steps.running -= 1
            code = self.steps.codes.get(self.step, [0]).pop(0)
            if code == 0:
                kind, _, arm = self.step.partition(":")
                if kind == "answers":
                    path = self.steps.work / "answers" / file_of(arm) / "hotpotqa.jsonl"
                    for i in range(10):
                        Journal(path, Answer, {}).add(answer(str(i), arm != BASE_MODEL and i < 5))
                done = self.steps.work / "done" / file_of(self.step)
                done.parent.mkdir(parents=True, exist_ok=True)
                done.touch()
            return code


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    monkeypatch.setattr(run, "PAUSE", 0)
    made = Steps(tmp_path / "work", {})
    monkeypatch.setattr(run, "subprocess", SimpleNamespace(Popen=made))
    return made


def test_so_many_steps_run_at_once_and_what_fails_is_tried_once_more(steps: Steps):
    steps.codes = {"a": [1, 0], "b": [-9, 1]}
    ended = run_steps([*"abcdefg"], ONE_BY_ONE | {"parallel": 3}, steps.work, until=1e12)
    assert steps.most == 3
    assert "".join(steps.started) == "abcdefgab"
    assert {step: end["code"] for step, end in ended.items() if end["code"]} == {"b": 1}
    assert len(ended) == 7


def test_no_step_starts_when_time_is_up(steps: Steps):
    assert run_steps(["a", "b"], ONE_BY_ONE, steps.work, until=0) == {}


def test_a_step_starts_as_soon_as_what_it_needs_is_done(steps: Steps):
    trained = ["roles:isolated", "roles:neutral", "roles:base+lr"]
    last = ["answers:isolated/full", "similarity:neutral", "meter:base+lr"]
    settings = SETTINGS | {"parallel": 8, "parallel_trainings": 2, "speed_arm": "neutral/neutral"}
    run_steps(["base", *trained, *last, "speed"], settings, steps.work, until=1e12)
    assert steps.started == ["base", *trained[:2], trained[2], *last[:2], last[2], "speed"]
    assert steps.beside["speed"] == 0, "it would be slowed by others"


def test_arms_without_their_training_are_left_out(
    steps: Steps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    steps.codes = {"roles:isolated": [1, 1]}
    words = ["--steps=base,roles,answers", "--trainings=isolated,neutral", f"--pack={tmp_path}"]
    words += [f"--work={steps.work}", f"--out={tmp_path / 'out'}", "--parallel-trainings=1"]
    with pytest.raises(SystemExit) as end:
        run.main(words)
    assert end.value.code == 1
    assert steps.started == [
        "base", "roles:isolated", "answers:base model", "roles:neutral",
        "answers:neutral/neutral", "roles:isolated",
    ]  # fmt: skip
    assert steps.most == 2
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "10 of 10 steps to run"
    assert "answers:isolated/full: left out, as it needs roles:isolated" in out
    heads, *arms, absent = [line.split() for line in out[-5:-1]]
    assert heads == ["exact,", "F1", "(questions)", "hotpotqa", "(10)"]
    assert arms == [["base", "model", "0.0,", "0.0"], ["neutral/neutral", "50.0,", "50.0"]]
    assert "roles:isolated," in absent

    steps.codes, steps.started = {}, []
    with pytest.raises(SystemExit) as end:
        run.main(words)
    assert end.value.code == 0
    assert steps.started[0] == "roles:isolated"
    assert len(steps.started) == 6
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "6 of 10 steps to run"
    assert out[-2] == "missing: nothing"


def test_answers_of_all_seeds_count_together(
    steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("benchmarks.quality.run.hardware", lambda: {"device": "NVIDIA T4"})
    words = ["--steps=roles,answers", "--trainings=isolated", "--base-steps=0", "--seeds=3"]
    words += [f"--pack={tmp_path}", f"--work={steps.work}", f"--out={tmp_path}"]
    with pytest.raises(SystemExit) as end:
        run.main([*words, f"--arms={REFERENCE},isolated/full"])
    assert end.value.code == 0
    (task,) = load(tmp_path / "quality-seeds-t4.json")["tasks"].values()
    assert task["questions"] == 10
    assert [arm["exact"]["value"] for arm in task["arms"]] == [50.0, 50.0]
    lines = rows(tmp_path / "quality-seeds-t4-answers.jsonl.gz")
    assert len(lines) == 60
    assert [line["arm"] for line in lines[::10][:3]] == [
        REFERENCE,
        f"{REFERENCE}@1",
        f"{REFERENCE}@2",
    ]


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

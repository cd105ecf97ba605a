"""A call that runs out of time keeps what was measured by then."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.serving_parts import campaign, jobs
from benchmarks.serving_parts.campaign import Campaign
from benchmarks.serving_parts.jobs import (
    HANDOVER,
    WORKFLOW,
    EngineProcess,
    Job,
    JobError,
    Setup,
    Step,
    wait_for,
)
from benchmarks.serving_parts.result import load, save
from benchmarks.serving_parts.rows import row

IDENTITY = {
    "hardware": {"device": "none"}, "versions": {}, "source": "0", "commit": "1", "model": "m",
    "environment": {},
}  # fmt: skip
SETUP = Setup("agents", 16, (HANDOVER,), {})
ROW = row("handover", "same, 64", "base+lr", ttft_s=[0.1, 0.2], context=64, kind="same")
ANSWER = {"engine": {"kv_tokens": 64}, "rows": [ROW], "seconds": 3.0, "done": False}


def job() -> Job:
    return Job("base+lr", ["base+lr"], [HANDOVER], "m", {}, {}, {})


class Slow:
    """Stands in for an engine's process: it leaves an answer, if any, and is never done."""

    answer: Any = None
    returncode = -9

    def __init__(self, command: list[Any], **_: Any):
        self.path = Path(command[-1])
        self.stdin = io.BytesIO()

    def poll(self) -> int | None:
        if self.answer is not None:
            self.path.write_text(json.dumps(self.answer))
        return None

    def wait(self) -> None:
        pass

    def kill(self) -> None:
        pass


@pytest.mark.parametrize("answer", [ANSWER, None])
def test_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: Any) -> None:
    monkeypatch.setattr(jobs.subprocess, "Popen", type("Slow", (Slow,), {"answer": answer}))
    process = EngineProcess("base+lr", tmp_path, 0)
    process.begin(job())
    wait_for([process], 0.2)
    if answer is None:
        with pytest.raises(JobError, match=r"base\+lr engine had measured nothing"):
            process.result()
    else:
        assert process.result() == answer


def test_the_others_are_not_waited_for_when_one_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(jobs.subprocess, "Popen", type("Slow", (Slow,), {"answer": ANSWER}))
    slow = EngineProcess("stock", tmp_path, 0)
    failed = type("Failed", (Slow,), {"poll": lambda self: 1, "returncode": 1})
    monkeypatch.setattr(jobs.subprocess, "Popen", failed)
    broken = EngineProcess("base", tmp_path, 1)
    with pytest.raises(JobError, match="the base engine ended with code 1"):
        wait_for([slow, broken], None)


@pytest.mark.parametrize("gate", [{"passed": True}, None])
def test_campaign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gate: Any) -> None:
    path = tmp_path / "result.json"
    if gate:
        save(path, {**IDENTITY, "gate": gate, "engines": {}, "rows": []})
    monkeypatch.setattr(jobs.subprocess, "Popen", type("Slow", (Slow,), {"answer": ANSWER}))
    short = Campaign(path, IDENTITY, "m", {16: {}}, {}, (8, 2), tmp_path, 0.2)
    with pytest.raises(JobError, match="done is kept" if gate else "nothing is kept"):
        short.run([[Step(SETUP, "base+lr", ["base+lr"])]])
    kept = load(path)
    assert (kept is not None) == bool(gate)
    if kept is not None:
        assert [(r["case"], r["commit"]) for r in kept["rows"]] == [("same, 64", "1")]


def test_each_process_starts_when_the_one_before_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[str] = []

    class Recorded:
        def __init__(self, engine: str, folder: Path, number: int):
            self.engine = engine
            events.append(f"start {engine} {number}")

        def end(self) -> None:
            events.append(f"end {self.engine}")

    monkeypatch.setattr(campaign, "EngineProcess", Recorded)
    with campaign.ready(["a", "b", "c", "d"], tmp_path) as processes:
        assert next(processes).engine == "a"
        assert events == ["start a 0", "start b 1"]
        next(processes)
    assert events[2:] == ["start c 2", "end a", "end b", "end c"]


def test_a_policy_for_the_hand_over_only() -> None:
    short = replace(job(), policies=["stock", "bound"], handover_only=["stock"])
    assert short.measured(HANDOVER) == ["stock", "bound"]
    assert short.measured(WORKFLOW) == ["bound"]

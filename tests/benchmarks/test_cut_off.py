"""A call that runs out of time keeps what was measured by then."""

from __future__ import annotations

import json
import subprocess
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
    Plan,
    Setup,
)
from benchmarks.serving_parts.result import load, save
from benchmarks.serving_parts.rows import row

IDENTITY = {
    "hardware": {"device": "none"}, "versions": {}, "commit": "0", "model": "m", "environment": {},
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

    def communicate(self, text: bytes | None = None, timeout: float | None = None) -> None:
        if text is not None:
            if self.answer is not None:
                self.path.write_text(json.dumps(self.answer))
            raise subprocess.TimeoutExpired("engine", timeout or 0)

    def kill(self) -> None:
        pass


@pytest.mark.parametrize("answer", [ANSWER, None])
def test_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: Any) -> None:
    monkeypatch.setattr(jobs.subprocess, "Popen", type("Slow", (Slow,), {"answer": answer}))
    process = EngineProcess("base+lr", tmp_path)
    if answer is None:
        with pytest.raises(JobError, match="measured nothing after 5 s"):
            process.run(job(), 5)
    else:
        assert process.run(job(), 5) == answer


@pytest.mark.parametrize("gate", [{"passed": True}, None])
def test_campaign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gate: Any) -> None:
    path = tmp_path / "result.json"
    if gate:
        save(path, {**IDENTITY, "gate": gate, "engines": {}, "rows": []})
    monkeypatch.setattr(jobs.subprocess, "Popen", type("Slow", (Slow,), {"answer": ANSWER}))
    short = Campaign(path, IDENTITY, "m", {16: {}}, {}, (8, 2), tmp_path, 5)
    with pytest.raises(JobError, match="1 rows are kept" if gate else "nothing is kept"):
        short.run(Plan([(SETUP, "base+lr", ["base+lr"])]))
    kept = load(path)
    assert (kept is not None) == bool(gate)
    if kept is not None:
        assert [r["case"] for r in kept["rows"]] == ["same, 64"]


def test_each_process_starts_when_the_one_before_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[str] = []

    class Recorded:
        def __init__(self, engine: str, folder: Path):
            self.engine = engine
            events.append(f"start {engine}")

        def end(self) -> None:
            events.append(f"end {self.engine}")

    monkeypatch.setattr(campaign, "EngineProcess", Recorded)
    with campaign.ready(["a", "b", "c", "d"], tmp_path) as processes:
        assert next(processes).engine == "a"  # pyright: ignore[reportAttributeAccessIssue]
        assert events == ["start a", "start b"]
        next(processes)
    assert events[2:] == ["start c", "end a", "end b", "end c"]


def test_a_policy_for_the_hand_over_only() -> None:
    short = replace(job(), policies=["stock", "bound"], handover_only=["stock"])
    assert short.measured(HANDOVER) == ["stock", "bound"]
    assert short.measured(WORKFLOW) == ["bound"]

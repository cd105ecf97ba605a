"""A call that runs out of time keeps what was measured by then."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from benchmarks.serving_parts import jobs
from benchmarks.serving_parts.campaign import Campaign
from benchmarks.serving_parts.jobs import HANDOVER, Job, JobError, Plan, Setup
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


def time_is_over(command: list[str], answer: Any) -> None:
    if answer is not None:
        Path(command[-1]).write_text(json.dumps(answer))
    raise subprocess.TimeoutExpired(command, 5)


@pytest.mark.parametrize("answer", [ANSWER, None])
def test_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: Any) -> None:
    monkeypatch.setattr(jobs.subprocess, "run", lambda command, **_: time_is_over(command, answer))
    if answer is None:
        with pytest.raises(JobError, match="measured nothing after 5 s"):
            job().run(tmp_path, 5)
    else:
        assert job().run(tmp_path, 5) == answer


@pytest.mark.parametrize("gate", [{"passed": True}, None])
def test_campaign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gate: Any) -> None:
    path = tmp_path / "result.json"
    if gate:
        save(path, {**IDENTITY, "gate": gate, "engines": {}, "rows": []})
    monkeypatch.setattr(Job, "run", lambda *_: ANSWER)
    campaign = Campaign(path, IDENTITY, "m", {16: {}}, {}, (8, 2), tmp_path, 5)
    with pytest.raises(JobError, match="1 rows are kept" if gate else "nothing is kept"):
        campaign.run(Plan([(SETUP, "base+lr", ["base+lr"])]))
    kept = load(path)
    assert (kept is not None) == bool(gate)
    if kept is not None:
        assert [r["case"] for r in kept["rows"]] == ["same, 64"]

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.agents.scripted import ScriptedBackend, step

from lragent.agents import (
    DocumentStore,
    PlanActReflect,
    RunTrace,
    Status,
    TraceReadError,
    TraceWriteError,
)


@pytest.fixture
def trace() -> RunTrace:
    store = DocumentStore([("Alba", "Alba is a town.")])
    backend = ScriptedBackend(
        *step("I need to find Alba.", "Retrieve", "Alba"),
        *step("Alba is a town.", "Finish", "a town"),
        " It fits.",
        "right",
    )
    result = PlanActReflect(backend, store).run("What is Alba?")
    return RunTrace.of(result, model="m", sharing="base+lr", gold="town")


def test_trace_tells_every_call(trace: RunTrace):
    assert [(c.role, c.kind, c.text) for c in trace.calls] == [
        ("plan", "thought", " I need to find Alba."),
        ("plan", "tool", " Retrieve"),
        ("act", "argument", "Alba"),
        ("plan", "thought", " Alba is a town."),
        ("plan", "tool", " Finish"),
        ("act", "argument", "a town"),
        ("reflect", "thought", " It fits."),
        ("reflect", "verdict", "right"),
    ]
    assert trace.status is Status.ANSWERED
    assert (trace.exact_match, trace.f1) == (True, 1.0)
    assert trace.prompt_tokens == sum(c.prompt_tokens for c in trace.calls) > 0
    assert trace.reused_tokens == sum(c.reused_tokens or 0 for c in trace.calls) > 0
    assert trace.generated_tokens == sum(len(c.text) for c in trace.calls)
    assert trace.ttft_s == pytest.approx(sum(c.ttft_s or 0 for c in trace.calls))
    assert all(0 <= (c.ttft_s or 0) <= c.seconds for c in trace.calls)


def test_trace_survives_the_disk(trace: RunTrace, tmp_path: Path):
    trace.save(tmp_path / "runs" / "one.json")
    assert RunTrace.load(tmp_path / "runs" / "one.json") == trace


def test_full_disk_is_told_and_leaves_nothing(
    trace: RunTrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        TraceWriteError, match=r"one\.json cannot be saved: No space left"
    ) as caught:
        trace.save(tmp_path / "one.json")
    assert "nothing was written" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_told(trace: RunTrace, tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TraceWriteError, match="cannot be saved"):
        trace.save(tmp_path / "file" / "one.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("{", "is no trace"), ('{"steps": 1}', "is no trace")],
)
def test_damaged_traces_are_refused(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "trace.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TraceReadError, match=message):
        RunTrace.load(path)

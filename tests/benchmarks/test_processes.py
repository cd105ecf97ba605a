"""Engines in processes: answers, failures, and what is kept when the time is over."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.common.processes import Job, JobError, run_all

PROGRAM = """
import json, sys, time
source, target = sys.argv[1:]
job = json.load(open(source))
if job.get("fails"):
    sys.exit(3)
if "answer" in job:
    json.dump({"answer": job["answer"], "begun": time.monotonic()}, open(target, "w"))
time.sleep(job.get("seconds", 0))
"""


@pytest.fixture
def job(tmp_path: Path) -> Any:
    (tmp_path / "stand_in.py").write_text(PROGRAM)

    def make(**data: Any) -> Job:
        return Job("stand_in", data, {**os.environ, "PYTHONPATH": str(tmp_path)})

    return make


def test_answers_and_failures_by_name(tmp_path: Path, job: Any):
    jobs = {"good": job(answer=5), "bad": job(fails=True), "silent": job(), "last": job(answer=6)}
    found = run_all(jobs, tmp_path, parallel=2)
    assert list(found) == ["good", "bad", "silent", "last"]
    assert (found["good"]["answer"], found["last"]["answer"]) == (5, 6)
    assert "the bad engine ended with code 3" in str(found["bad"])
    assert "the silent engine had no answer" in str(found["silent"])


def test_as_many_at_once_as_are_allowed(tmp_path: Path, job: Any):
    jobs = {name: job(answer=0, seconds=0.5) for name in "abc"}
    found = run_all(jobs, tmp_path, parallel=2)
    first, second, third = sorted(answer["begun"] for answer in found.values())
    assert second - first < 0.5 <= third - first


def test_what_was_written_is_the_answer_when_the_time_is_over(tmp_path: Path, job: Any):
    jobs = {"slow": job(answer=1, seconds=60), "none": job(seconds=60), "waits": job(answer=2)}
    begin = time.monotonic()
    found = run_all(jobs, tmp_path, parallel=2, limit=3.0)
    assert time.monotonic() - begin < 30
    assert found["slow"]["answer"] == 1
    assert "had no answer" in str(found["none"])
    assert "not started" in str(found["waits"])


def test_the_others_are_not_waited_for_when_one_fails(tmp_path: Path, job: Any):
    begin = time.monotonic()
    with pytest.raises(JobError, match="the bad engine"):
        run_all({"slow": job(seconds=60), "bad": job(fails=True)}, tmp_path, parallel=2,
                all_or_none=True)  # fmt: skip
    assert time.monotonic() - begin < 30

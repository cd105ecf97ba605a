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


def test_answers_by_name(tmp_path: Path, job: Any):
    found = run_all({"b": job(answer=5), "a": job(answer=6)}, tmp_path, parallel=1)
    assert [(name, answer["answer"]) for name, answer in found.items()] == [("b", 5), ("a", 6)]


def test_as_many_at_once_as_are_allowed(tmp_path: Path, job: Any):
    jobs = {name: job(answer=0, seconds=0.5) for name in "abc"}
    found = run_all(jobs, tmp_path, parallel=2)
    first, second, third = sorted(answer["begun"] for answer in found.values())
    assert second - first < 0.5 <= third - first


def test_what_was_written_is_the_answer_when_the_time_is_over(tmp_path: Path, job: Any):
    begin = time.monotonic()
    found = run_all({"slow": job(answer=1, seconds=60)}, tmp_path, parallel=2, limit=3.0)
    assert time.monotonic() - begin < 30
    assert found["slow"]["answer"] == 1


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ({"a": {"fails": True}}, "the a engine ended with code 3"),
        ({"a": {}}, "the a engine had no answer"),
        ({"a": {"answer": 1, "seconds": 60}, "b": {}}, "not started in 2 s: b"),
    ],
)
def test_why_there_is_no_answer(tmp_path: Path, job: Any, jobs: Any, message: str):
    made = {name: job(**data) for name, data in jobs.items()}
    with pytest.raises(JobError, match=message):
        run_all(made, tmp_path, parallel=1, limit=2.0)


def test_the_others_are_not_waited_for_when_one_fails(tmp_path: Path, job: Any):
    begin = time.monotonic()
    with pytest.raises(JobError, match="the bad engine"):
        run_all({"slow": job(seconds=60), "bad": job(fails=True)}, tmp_path, parallel=2)
    assert time.monotonic() - begin < 30

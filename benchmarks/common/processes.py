"""Engines in processes of their own: each does one job and leaves its answer in a file.

Messages of all of them go to this process's output.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.files import load, save

PAUSE = 0.1  # seconds between two looks at processes


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        module: run as ``python -m MODULE job.json answer.json``; it may write its answer as often
            as it likes, whole each time.
        data: content of ``job.json``.
        env: all environment variables of the process.
    """

    module: str
    data: Mapping[str, Any]
    env: Mapping[str, str]


class JobError(RuntimeError):
    """A process failed, or had no answer when its time was over."""


Answer = dict[str, Any]


def run_all(
    jobs: Mapping[str, Job],
    folder: Path,
    *,
    parallel: int,
    limit: float | None = None,
    all_or_none: bool = False,
) -> dict[str, Answer | JobError]:
    """Run the jobs and return their answers, or errors, by name.

    Args:
        jobs: by name.
        folder: for the files between processes.
        parallel: how many processes run at once.
        limit: seconds for all of them. Processes that still run then are ended, and what they had
            written is their answer.
        all_or_none: end all processes when one fails: engines that take turns wait for each other.

    Raises:
        JobError: one failed, and ``all_or_none`` is set.
    """
    waiting = list(jobs.items())
    running: list[_Process] = []
    answers: dict[str, Answer | JobError] = {}
    begin = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                running.append(_Process(*waiting.pop(0), folder))
            over = limit is not None and time.monotonic() - begin > limit
            for process in [p for p in running if over or p.code is not None]:
                running.remove(process)
                answers[process.name] = answer = process.end()
                if all_or_none and isinstance(answer, JobError):
                    raise answer
            if over:
                break
            time.sleep(PAUSE)
    finally:
        for process in running:
            process.end()
    late = JobError(f"not started: the {limit} s for all engines were over")
    return {name: answers.get(name, late) for name in jobs}


class _Process:
    def __init__(self, name: str, job: Job, folder: Path):
        self.name = name
        stem = name.replace("/", "_")
        source, self._answer = folder / f"{stem}.job.json", folder / f"{stem}.answer.json"
        save(source, job.data)
        command = [sys.executable, "-m", job.module, str(source), str(self._answer)]
        self._process = subprocess.Popen(command, env=dict(job.env))

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def end(self) -> Answer | JobError:
        """End the process if it still runs; its answer."""
        failed = bool(self.code)
        self._process.kill()
        code = self._process.wait()
        if failed:
            return JobError(f"the {self.name} engine ended with code {code}; see its output")
        if not self._answer.exists():
            return JobError(f"the {self.name} engine had no answer when it ended")
        return load(self._answer)

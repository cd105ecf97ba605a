"""Engines in processes of their own: each does one job and leaves its answer in a file.

Messages of all of them go to this process's output.
"""

from __future__ import annotations

import math
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
    jobs: Mapping[str, Job], folder: Path, *, parallel: int, limit: float = math.inf
) -> dict[str, Answer]:
    """Run the jobs and return their answers by name.

    When one fails the others are ended too: engines that take turns would wait for it.

    Args:
        jobs: by name.
        folder: for the files between processes.
        parallel: how many processes run at once.
        limit: seconds for all of them. Processes that still run then are ended, and what they had
            written is their answer.

    Raises:
        JobError: one failed, or had not even written anything when the time was over.
    """
    waiting = list(jobs.items())
    running: list[_Process] = []
    answers: dict[str, Answer] = {}
    begin = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                running.append(_Process(*waiting.pop(0), folder))
            over = time.monotonic() - begin > limit
            for process in [p for p in running if over or p.code is not None]:
                answers[process.name] = process.answer()
                running.remove(process)
            if over and waiting:
                names = "; ".join(name for name, _ in waiting)
                raise JobError(f"not started in {limit:.0f} s: {names}")
            time.sleep(PAUSE)
    finally:
        for process in running:
            process.end()
    return {name: answers[name] for name in jobs}


class _Process:
    def __init__(self, name: str, job: Job, folder: Path):
        self.name = name
        source, self._answer = folder / f"{name}.job.json", folder / f"{name}.answer.json"
        save(source, job.data)
        command = [sys.executable, "-m", job.module, str(source), str(self._answer)]
        self._process = subprocess.Popen(command, env=dict(job.env))

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """End the process if it still runs."""
        self._process.kill()
        self._process.wait()

    def answer(self) -> Answer:
        """What it has written; it is ended.

        Raises:
            JobError: it failed, or has written nothing.
        """
        code = self.code
        self.end()
        if code:
            raise JobError(f"the {self.name} engine ended with code {code}; see its output")
        if not self._answer.exists():
            raise JobError(f"the {self.name} engine had no answer when it ended")
        return load(self._answer)

"""Engine processes side by side, each with a time limit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAST_LINES = 12


@dataclass(frozen=True)
class Task:
    """A job's data and the variables of its process."""

    job: Mapping[str, Any]
    env: Mapping[str, str]


class EngineError(RuntimeError):
    """A process failed; says why, with the end of its output."""


def run_all(
    tasks: Mapping[str, Task], folder: Path, parallel: int, limit: float, deadline: float
) -> dict[str, dict[str, Any] | EngineError]:
    """Run the tasks, ``parallel`` at a time; answers or errors by name.

    Args:
        tasks: by name.
        folder: for files; each process gets a folder of its own there, and a compile cache in it.
        parallel: how many at once.
        limit: seconds for one process.
        deadline: of `time.monotonic`; after it nothing is started and what runs is ended.
    """

    def guarded(number: int, name: str, task: Task) -> dict[str, Any] | EngineError:
        begin = time.monotonic()
        try:
            answer = run(task, folder / f"{len(tasks)}-{number}", min(limit, deadline - begin))
        except EngineError as error:
            print(f"{name}: FAILED after {time.monotonic() - begin:.0f} s", flush=True)
            return error
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
        return answer

    with ThreadPoolExecutor(parallel) as pool:
        waiting = {
            name: pool.submit(guarded, number, name, task)
            for number, (name, task) in enumerate(tasks.items())
        }
        return {name: future.result() for name, future in waiting.items()}


def run(task: Task, folder: Path, limit: float) -> dict[str, Any]:
    """Run one process in a folder of its own.

    Raises:
        EngineError: it failed, or took longer than ``limit`` seconds.
    """
    if limit <= 0:
        raise EngineError("not started: the time for the whole call is over")
    folder.mkdir(parents=True)
    job, answer, log = folder / "job.json", folder / "answer.json", folder / "log.txt"
    job.write_text(json.dumps(task.job))
    command = [sys.executable, "-m", "serving_parts.agreement_process", str(job), str(answer)]
    env = {**task.env, "VLLM_CACHE_ROOT": str(folder / "cache")}
    with log.open("w") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise EngineError(f"not done in {limit:.0f} s; {last_lines(log)}") from None
    if code or not answer.exists():
        raise EngineError(f"ended with code {code}; {last_lines(log)}")
    return json.loads(answer.read_text())


def last_lines(log: Path) -> str:
    """The end of a process's output."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(["the end of its output:", *lines[-LAST_LINES:]])

"""Engines in processes side by side.

A process runs one engine after another: importing vLLM takes as long as starting a small engine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAST_LINES = 12
PAUSE = 0.05  # seconds between two looks for an answer
ENDING = 10  # seconds for a process to end by itself


@dataclass(frozen=True)
class Task:
    """One engine.

    Attributes:
        job: data for the program.
        env: variables of its process.
        kin: engines of a kin run one after another in one process, as they share compiled code.
    """

    job: Mapping[str, Any]
    env: Mapping[str, str]
    kin: str = ""


class EngineError(RuntimeError):
    """An engine failed; says why, with the end of its process's output."""


Answer = dict[str, Any] | EngineError


def run_all(
    tasks: Mapping[str, Task], folder: Path, parallel: int, limit: float, deadline: float
) -> dict[str, Answer]:
    """Run the tasks in ``parallel`` processes; answers or errors by name.

    Args:
        tasks: by name.
        folder: for files; each process gets a folder of its own there, and a compile cache in it.
        parallel: how many at once.
        limit: seconds for one task.
        deadline: of `time.monotonic`; after it nothing is started and what runs is ended.
    """
    waiting, begun, lock = dict(tasks), set[str](), threading.Lock()
    answers: dict[str, Answer] = {}

    def take(last: Task | None) -> tuple[str, Task] | None:
        """The next task of a process: of the last one's kin, else of a kin that none has begun."""

        def rank(name: str) -> tuple[bool, bool, bool]:
            task = waiting[name]
            same = last is not None and task.env == last.env
            kin = last is not None and task.kin == last.kin
            return not (same and kin), task.kin in begun, not same

        with lock:
            if not waiting:
                return None
            name = min(waiting, key=rank)
            begun.add(waiting[name].kin)
            return name, waiting.pop(name)

    def work(number: int) -> None:
        process: Worker | None = None
        task: Task | None = None
        started = 0
        while (taken := take(task)) is not None:
            name, task = taken
            if time.monotonic() > deadline:
                answers[name] = EngineError("not started: the time for the whole call is over")
                print(f"{name}: not started", flush=True)
                continue
            if process is None or process.ended or process.env != task.env:
                if process is not None:
                    process.close()
                started += 1
                process = Worker(task.env, folder / f"{number}-{started}")
            begin = time.monotonic()
            try:
                answers[name] = process.run(task.job, min(limit, deadline - begin))
                print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
            except EngineError as error:
                answers[name] = error
                print(f"{name}: FAILED after {time.monotonic() - begin:.0f} s", flush=True)
        if process is not None:
            process.close()

    with ThreadPoolExecutor(parallel) as pool:
        for done in [pool.submit(work, number) for number in range(min(parallel, len(tasks)))]:
            done.result()
    return {name: answers[name] for name in tasks}


class Worker:
    """A process for jobs with the same variables.

    Args:
        env: its variables.
        folder: for its files; made.
    """

    def __init__(self, env: Mapping[str, str], folder: Path):
        self.env = env
        self._folder = folder
        self._jobs = 0
        folder.mkdir(parents=True)
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving_parts.agreement_process"],
                env={**env, "VLLM_CACHE_ROOT": str(folder / "cache")},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )

    @property
    def _log(self) -> Path:
        return self._folder / "log.txt"

    @property
    def ended(self) -> bool:
        """Whether it takes no more jobs."""
        return self._process.poll() is not None

    def run(self, job: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """Run one engine.

        Raises:
            EngineError: it failed, or took longer than ``limit`` seconds; the process is ended.
        """
        self._jobs += 1
        source, target = (self._folder / f"{name}-{self._jobs}.json" for name in ("job", "answer"))
        source.write_text(json.dumps(job))
        self._send(f"{json.dumps([str(source), str(target)])}\n".encode())
        end = time.monotonic() + limit
        while not target.exists():
            if self.ended:
                raise EngineError(f"ended with code {self._process.returncode}; {self._last()}")
            if time.monotonic() > end:
                self._process.kill()
                self._process.wait()
                raise EngineError(f"not done in {limit:.0f} s; {self._last()}")
            time.sleep(PAUSE)
        return json.loads(target.read_text())

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()  # `run` sees that it has ended

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(ENDING)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def _last(self) -> str:
        """The end of its output."""
        text = self._log.read_text(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return "\n".join(["the end of its output:", *lines[-LAST_LINES:]])

"""One engine process each: what it starts and what it measures there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .environment import environment_of
from .parts import Sizes
from .policies import HOST, STOCK, engines_of

HANDOVER, WORKFLOW, OPEN, TRACE, TIGHT = PARTS = ("handover", "workflow", "open", "trace", "tight")
TRACE_RANK, AGENT_RANK = 8, 16
PAUSE = 0.1  # seconds between two looks at processes


@dataclass(frozen=True)
class Setup:
    """An engine's settings, the same for stock and plugin.

    Attributes:
        name: for messages.
        rank: of the adapters.
        parts: what is measured on it.
        settings: arguments of ``vllm.LLM``.
    """

    name: str
    rank: int
    parts: tuple[str, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What an engine process is told.

    Attributes:
        engine: ``stock`` or a policy of the plugin.
        policies: names measured on this engine.
        parts: parts measured.
        model: folder of the model.
        adapters: folders by agent.
        settings: arguments of ``vllm.LLM``.
        sizes: what is run; see `Sizes`.
        gate: prompt tokens and generated tokens of the comparison with stock; None without it.
        chains_from: stock's answer file, with its chains, for the plugin to be compared with.
        handover_only: names that no other part is measured for.
        turns: folder through which engines take turns; None for one after the other.
        place: this engine's place among those that take turns.
        of: how many take turns.
        most: policies of the engine among them that has most.
    """

    engine: str
    policies: list[str]
    parts: list[str]
    model: str
    adapters: dict[str, str]
    settings: dict[str, Any]
    sizes: dict[str, Any]
    gate: list[int] | None = None
    chains_from: str = ""
    handover_only: list[str] = field(default_factory=list)
    turns: str | None = None
    place: int = 0
    of: int = 1
    most: int = 0

    def measured(self, part: str) -> list[str]:
        """The names that a part is measured for."""
        if part == HANDOVER:
            return self.policies
        return [name for name in self.policies if name not in self.handover_only]


class EngineProcess:
    """A process that imports vLLM and waits for its job: so the next one is ready in time.

    Args:
        engine: ``stock`` or a policy of the plugin.
        folder: for the files between processes.
        number: of the process, for their names.

    Attributes:
        answer: file that the answer is written to.
    """

    def __init__(self, engine: str, folder: Path, number: int):
        self.engine = engine
        self.answer = folder / f"answer-{number}.json"
        self._job = folder / f"job-{number}.json"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving_parts.engine_process", self._job, self.answer],
            env=environment_of(engine != STOCK, folder),
            stdin=subprocess.PIPE,
        )

    def begin(self, job: Job) -> None:
        """Let it do a job. Messages go to this process's output."""
        self._job.write_text(json.dumps(asdict(job)))
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()

    def result(self) -> dict[str, Any]:
        """Read its answer.

        An engine that takes too long is told to end, which can take seconds. What it had measured
        by then is its answer, in which ``done`` is false.

        Raises:
            JobError: it had measured nothing.
        """
        self._process.kill()
        if not self.answer.exists():
            raise JobError(f"the {self.engine} engine had measured nothing when it ended")
        return json.loads(self.answer.read_text())

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """End the process; does nothing when it has ended."""
        self._process.kill()
        self._process.wait()


def wait_for(processes: Sequence[EngineProcess], timeout: float | None) -> None:
    """Wait until all have ended, or the time is over.

    Raises:
        JobError: one failed; the others, which would wait for its turns, are not waited for.
    """
    begin = time.monotonic()
    while True:
        codes = {process.engine: process.code for process in processes}
        for engine, code in codes.items():
            if code:
                raise JobError(f"the {engine} engine ended with code {code}; see above")
        over = timeout is not None and time.monotonic() - begin > timeout
        if over or None not in codes.values():
            return
        time.sleep(PAUSE)


class JobError(RuntimeError):
    """An engine process failed."""


@dataclass(frozen=True)
class Step:
    """One engine of a plan.

    Attributes:
        setup: its settings.
        engine: ``stock`` or a policy of the plugin.
        policies: measured on it; none where only the gate needs it.
    """

    setup: Setup
    engine: str
    policies: list[str]


def make_plan(
    setups: Sequence[Setup], names: Sequence[str], gate: bool, together: bool = False
) -> list[list[Step]]:
    """Groups of engines that are started one group after the other, in the order of the names.

    When the gate has to be passed, stock comes first on the first setup, then the engine that the
    gate compares with it.

    Args:
        setups: in order.
        names: what is measured, from `policies`.
        gate: the gate has to be passed.
        together: all engines of a setup are one group; else each engine is.
    """
    groups: list[list[Step]] = []
    engines = engines_of(names)
    for index, setup in enumerate(setups):
        wanted = dict(engines)
        if gate and index == 0:
            order = {engine: wanted.pop(engine, []) for engine in (STOCK, HOST)}
            wanted = {**order, **wanted}
        steps = [Step(setup, engine, policies) for engine, policies in wanted.items()]
        groups += [steps] if together else [[step] for step in steps]
    return groups


def sizes_of(data: dict[str, Any]) -> Sizes:
    """`Sizes` from a job's plain data."""
    lists: dict[str, Any] = {
        key: tuple(tuple(v) if isinstance(v, list) else v for v in value)
        if isinstance(value, list)
        else value
        for key, value in data.items()
    }
    return Sizes(**lists)

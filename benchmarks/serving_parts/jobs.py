"""One engine process each: what it starts and what it measures there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .environment import environment_of
from .parts import Sizes
from .policies import STOCK, engines_of

HANDOVER, WORKFLOW, OPEN, TRACE, TIGHT = PARTS = ("handover", "workflow", "open", "trace", "tight")
TRACE_RANK, AGENT_RANK = 8, 16


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
        chains: stock's chains, for the plugin to be compared with.
        handover_only: names that no other part is measured for.
    """

    engine: str
    policies: list[str]
    parts: list[str]
    model: str
    adapters: dict[str, str]
    settings: dict[str, Any]
    sizes: dict[str, Any]
    gate: list[int] | None = None
    chains: list[dict[str, Any]] | None = None
    handover_only: list[str] = field(default_factory=list)

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
    """

    def __init__(self, engine: str, folder: Path):
        self._job, self._answer = folder / "job.json", folder / "answer.json"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving_parts.engine_process", self._job, self._answer],
            env=environment_of(engine != STOCK, folder),
            stdin=subprocess.PIPE,
        )

    def run(self, job: Job, timeout: float | None) -> dict[str, Any]:
        """Do the job; returns its answer. Messages go to this process's output.

        An engine that takes too long is ended. What it had measured by then is its answer, in which
        ``done`` is false.

        Raises:
            JobError: it failed, or the time was over before it had measured anything.
        """
        self._job.write_text(json.dumps(asdict(job)))
        self._answer.unlink(missing_ok=True)
        late = False
        try:
            self._process.communicate(b"go\n", timeout)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            self.end()
        if self._answer.exists() and (late or self._process.returncode == 0):
            return json.loads(self._answer.read_text())
        if late:
            raise JobError(f"the {job.engine} engine had measured nothing after {timeout:.0f} s")
        code = self._process.returncode
        raise JobError(f"the {job.engine} engine ended with code {code}; see above")

    def end(self) -> None:
        """End the process; does nothing when it has ended."""
        self._process.kill()
        self._process.communicate()


class JobError(RuntimeError):
    """An engine process failed."""


@dataclass(frozen=True)
class Plan:
    """Setups with the engines to start on each, in order.

    Attributes:
        steps: setup, engine, and the policies measured on it (none where only the gate needs it).
    """

    steps: list[tuple[Setup, str, list[str]]] = field(default_factory=list)


def make_plan(setups: Sequence[Setup], names: Sequence[str], gate: bool) -> Plan:
    """Stock first, then ``isolated``, on the first setup when the gate has to be passed."""
    plan = Plan()
    engines = engines_of(names)
    for index, setup in enumerate(setups):
        wanted = dict(engines)
        if gate and index == 0:
            order = {engine: wanted.pop(engine, []) for engine in (STOCK, "isolated")}
            wanted = {**order, **wanted}
        plan.steps.extend((setup, engine, policies) for engine, policies in wanted.items())
    return plan


def sizes_of(data: dict[str, Any]) -> Sizes:
    """`Sizes` from a job's plain data."""
    lists: dict[str, Any] = {
        key: tuple(tuple(v) if isinstance(v, list) else v for v in value)
        if isinstance(value, list)
        else value
        for key, value in data.items()
    }
    return Sizes(**lists)

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

    def run(self, folder: Path, timeout: float | None) -> dict[str, Any]:
        """Run it in a process of its own, whose messages go to this one's; returns its answer.

        An engine that takes too long is ended. What it had measured by then is its answer, in which
        ``done`` is false.

        Raises:
            JobError: it failed, or the time was over before it had measured anything.
        """
        job, answer = folder / "job.json", folder / "answer.json"
        job.write_text(json.dumps(asdict(self)))
        answer.unlink(missing_ok=True)
        env = environment_of(self.engine != STOCK, folder)
        command = [sys.executable, "-m", "serving_parts.engine_process", str(job), str(answer)]
        try:
            code = subprocess.run(command, env=env, timeout=timeout, check=False).returncode
        except subprocess.TimeoutExpired:
            if not answer.exists():
                raise JobError(
                    f"the {self.engine} engine had measured nothing after {timeout:.0f} s"
                ) from None
            return json.loads(answer.read_text())
        if code or not answer.exists():
            raise JobError(f"the {self.engine} engine ended with code {code}; see above")
        return json.loads(answer.read_text())


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

"""Which engines are started, with what, and which of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.parts import Sizes
from benchmarks.serving.policies import engines_of

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
class Step:
    """One engine of a plan.

    Attributes:
        setup: its settings.
        engine: what it is started as; see `policies.engine_of`.
        policies: measured on it.
    """

    setup: Setup
    engine: str
    policies: list[str]

    @property
    def name(self) -> str:
        """For messages and the result."""
        return f"{self.setup.name}, {self.engine}"


@dataclass(frozen=True)
class Task:
    """What an engine's process is told.

    Attributes:
        engine: what it is started as; see `policies.engine_of`.
        policies: names measured on this engine.
        parts: parts measured.
        source: folder from which lragent has to come.
        model: folder of the model.
        adapters: folders by agent.
        settings: arguments of ``vllm.LLM``.
        sizes: what is run; see `Sizes`.
        handover_only: names that no other part is measured for.
        turns: folder through which engines take turns; None for one after the other.
        place: this engine's place among those that take turns.
        of: how many take turns.
        most: policies of the engine among them that has most.
    """

    engine: str
    policies: list[str]
    parts: list[str]
    source: str
    model: str
    adapters: dict[str, str]
    settings: dict[str, Any]
    sizes: dict[str, Any]
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


def make_plan(setups: Sequence[Setup], names: Sequence[str], together: bool) -> list[list[Step]]:
    """Groups of engines; those of a group run side by side, one group after the other.

    Args:
        setups: in order.
        names: what is measured, from `policies`.
        together: all engines of a setup are one group; else each engine is.
    """
    groups: list[list[Step]] = []
    for setup in setups:
        steps = [Step(setup, engine, found) for engine, found in engines_of(names).items()]
        groups += [steps] if together else [[step] for step in steps]
    return groups


def sizes_of(data: dict[str, Any]) -> Sizes:
    """`Sizes` from a task's plain data."""
    lists: dict[str, Any] = {
        key: tuple(tuple(v) if isinstance(v, list) else v for v in value)
        if isinstance(value, list)
        else value
        for key, value in data.items()
    }
    return Sizes(**lists)

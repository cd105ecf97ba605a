"""Settings of a workflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lragent.agents.prompts import SYSTEM_PROMPT, Role, Turn


@dataclass(frozen=True)
class WorkflowOptions:
    """Limits and decoding of a run.

    Args:
        adapters: adapter that writes for each role; None is the base model.
        max_steps: steps in all, reflect's included (the paper's limit).
        max_retries: further rounds after reflect said "wrong"; the answer then stands.
        max_malformed: malformed steps in a row that are put up with.
        max_repeats: how often the same action may bring the same observation.
        max_context_tokens: prompt tokens not to exceed; None leaves it to the backend.
        max_tokens: longest text of each turn.
        temperature, top_p, seed: decoding; each call adds its number to the seed.
        reflect: whether answers are judged at all.
        system_prompt: instructions, the same for all roles.
    """

    adapters: Mapping[Role, str | None] = field(
        default_factory=lambda: {role: role.value for role in Role}
    )
    max_steps: int = 15
    max_retries: int = 1
    max_malformed: int = 3
    max_repeats: int = 2
    max_context_tokens: int | None = None
    max_tokens: Mapping[Turn, int] = field(
        default_factory=lambda: {
            Turn.THOUGHT: 96,
            Turn.TOOL: 8,
            Turn.ARGUMENT: 48,
            Turn.VERDICT: 8,
        }
    )
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    reflect: bool = True
    system_prompt: str = SYSTEM_PROMPT

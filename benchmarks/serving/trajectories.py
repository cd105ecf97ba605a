"""Agent trajectories by their token counts, as sessions that arrive at random times."""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.drive import Ask, Session
from benchmarks.serving.workload import ACT, PLAN, REFLECT, draw

ROLES = {"plan": PLAN, "act": ACT, "reflect": REFLECT}
TOOL = "tool"


@dataclass(frozen=True)
class Trajectory:
    """The calls of one trajectory.

    Attributes:
        name: its id.
        prefix: name of the instructions that it shares with others of its system and task.
        prefix_tokens: tokens of them.
        calls: agent, tokens of context, tokens to generate.
    """

    name: str
    prefix: str
    prefix_tokens: int
    calls: tuple[tuple[int, int, int], ...]

    @property
    def length(self) -> int:
        """Most tokens that a call holds."""
        return max(context + new for _, context, new in self.calls)


def read(path: Path, longest: int) -> list[Trajectory]:
    """Trajectories of at least two of plan, act and reflect, from ``trace_step_lengths.jsonl.gz``.

    Traces with other roles are left out (nobody could say which adapter serves them), and so are
    those over ``longest`` tokens. Instructions are shared by the traces of a system and task as far
    as the shortest of their ``prompt_tok`` goes.

    Raises:
        ValueError: the file is missing, is something else, or has no such trajectory.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read trajectories from {path}: {error}") from error
    known = [record for record in records if _is_known(record)]
    prompts: dict[str, int] = defaultdict(lambda: longest)
    for record in known:
        key = _prefix(record)
        prompts[key] = min(prompts[key], record["prompt_tok"] or 0)
    found = [_trajectory(record, prompts[_prefix(record)]) for record in known]
    fitting = [trajectory for trajectory in found if trajectory.length <= longest]
    if not fitting:
        raise ValueError(f"{path} has no trajectory of two agents within {longest} tokens")
    return fitting


def _is_known(record: dict[str, Any]) -> bool:
    agents = set(record["roles"]) - {TOOL}
    return len(agents) > 1 and agents <= set(ROLES)


def _prefix(record: dict[str, Any]) -> str:
    return f"{record['system']}, {record['task']}"


def _trajectory(record: dict[str, Any], prefix_tokens: int) -> Trajectory:
    calls = tuple(
        (ROLES[role], max(context, 1), max(new, 1))
        for role, context, new in zip(
            record["roles"], record["ctx_tok"], record["new_tok"], strict=True
        )
        if role != TOOL
    )
    return Trajectory(record["id"], _prefix(record), prefix_tokens, calls)


def session(trajectory: Trajectory, vocab: int, *names: object) -> Session:
    """The trajectory as a session.

    What a call finds in its context beyond the last call's tokens (observations, labels) is drawn
    anew. A context that is shorter than the last one is another attempt: it begins again with the
    instructions.
    """
    prefix = draw(vocab, trajectory.prefix_tokens, trajectory.prefix)
    tokens = prefix[: trajectory.calls[0][1]]
    for step, (agent, context, new) in enumerate(trajectory.calls):
        if context < len(tokens):
            tokens = prefix[:context]
        tokens = [*tokens, *draw(vocab, context - len(tokens), *names, step)]
        generated = yield Ask(agent, tokens, new)
        tokens = [*tokens, *generated]


def arrivals(
    trajectories: Sequence[Trajectory], rate: float, seconds: float, vocab: int, seed: int = 0
) -> list[tuple[float, Session]]:
    """Poisson arrivals over ``seconds``, ``rate`` trajectories a second; at least one.

    The same rate and seed give the same arrivals and the same trajectories, for every engine.
    """
    rng = random.Random(f"{rate}/{seed}")
    found: list[tuple[float, Session]] = []
    due = rng.expovariate(rate)
    while due < seconds or not found:
        chosen = rng.choice(trajectories)
        found.append((due, session(chosen, vocab, chosen.name, rate, seed, len(found))))
        due += rng.expovariate(rate)
    return found

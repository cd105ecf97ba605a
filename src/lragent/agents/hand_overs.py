"""Agents that take turns on one long context, each both on a shared cache and on its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lragent.adapters.trained_for import other_policies_on_purpose
from lragent.engine import Completion, Engine, SamplingParams
from lragent.sharing import Policy, SharingGroup

_ALONE = " alone"
TURN_TOKENS = 16


@dataclass(frozen=True)
class TurnCost:
    """One turn, on the shared cache or on the agent's own: prompt tokens reused, and seconds."""

    cached_tokens: int
    ttft_s: float
    seconds: float

    @classmethod
    def of(cls, answer: Completion) -> TurnCost:
        """Of a finished request."""
        return cls(answer.cached_tokens, answer.ttft_s or 0.0, answer.total_s)


@dataclass(frozen=True)
class HandOver:
    """One agent's turn, computed twice with the same tokens.

    Attributes:
        agent: whose turn.
        prompt_tokens: the context and all turns before.
        shared, alone: cost on the group's cache, and on a cache of the agent's own.
        writers: for each full page of the prompt who wrote it in the shared cache.
    """

    agent: str
    prompt_tokens: int
    shared: TurnCost
    alone: TurnCost
    writers: tuple[str, ...]


def hand_over_engine(
    model: str, adapters: Mapping[str, Path], policy: Policy, kv_bytes: int
) -> Engine:
    """An engine with each adapter twice: in one group, and outside of it."""
    alone = {name + _ALONE: path for name, path in adapters.items()}
    group = SharingGroup("together", tuple(adapters), policy)
    with other_policies_on_purpose():
        return Engine(model, {**adapters, **alone}, [group], kv_bytes=kv_bytes)


def hand_overs(
    engine: Engine,
    agents: tuple[str, ...],
    context: list[int],
    rounds: int,
    cancel: threading.Event,
) -> Iterator[HandOver]:
    """Each agent's turn in `rounds` rounds; setting `cancel` ends it.

    Args:
        engine: of `hand_over_engine`.
        agents: names of its adapters.
        context: token ids that all of them read first.
        rounds: how often each has its turn.
        cancel: ends it before the next turn.
    """
    assert engine.tokenizer is not None
    said = list(context)
    for agent in agents * rounds:
        if cancel.is_set():
            return
        said += engine.tokenizer(f"\n\n{agent}:", add_special_tokens=False)["input_ids"]
        params = SamplingParams(max_tokens=TURN_TOKENS, ignore_eos=True)
        request = engine.submit(said, params, adapter=agent)
        answer = request.result()
        again = engine.submit(said, adapter=agent + _ALONE, forced=answer.token_ids).result()
        pages = request.cached_pages()[: len(said) // engine.layout.page_size]
        writers = tuple(str(page.users[0]) for page in pages)
        yield HandOver(agent, len(said), TurnCost.of(answer), TurnCost.of(again), writers)
        said += answer.token_ids

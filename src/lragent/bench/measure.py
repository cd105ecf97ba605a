"""The measurement: hand-overs of each pair of adapters, then a small workflow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations
from statistics import median

from lragent.bench.contexts import Contexts
from lragent.bench.result import BenchResult, Pair, Workflow, cached_share, reports
from lragent.bench.server import BenchServer, Call

_TURN = "\n\nNext step:"


@dataclass(frozen=True)
class BenchConfig:
    """How much is measured.

    Attributes:
        context_tokens: of each context, about.
        rounds: contexts for each pair.
        sessions: workflows at once; 0 leaves the workflow out.
        turns: of each session.
        turn_tokens: generated in each turn.
        seed: of the contexts; a server that has seen it answers from its cache.
    """

    context_tokens: int = 2000
    rounds: int = 5
    sessions: int = 4
    turns: int = 6
    turn_tokens: int = 32
    seed: int = 0


def measure(
    server: BenchServer,
    adapters: tuple[str, ...],
    config: BenchConfig,
    on_stage: Callable[[str], None],
    cancel: threading.Event,
) -> BenchResult:
    """Measure; setting `cancel` ends it with the pairs that are done.

    Raises BackendError when a call fails.
    """
    on_stage("first requests")
    contexts = Contexts(server, adapters[0], config.context_tokens, config.seed)
    for adapter in adapters:  # what a server loads or compiles on first use
        server.complete(adapter, contexts.fresh() + _TURN, 2)
    before = server.not_shared()
    pairs = []
    for writer, reader in permutations(adapters, 2):
        if cancel.is_set():
            break
        on_stage(f"{writer} to {reader}")
        pairs.append(_pair(server, contexts, writer, reader, config.rounds))
    workflow = single = None
    if config.sessions and not cancel.is_set():
        on_stage("workflow with all adapters")
        workflow = _workflow(server, contexts, adapters, config)
        on_stage(f"workflow with {adapters[0]} alone")
        single = _workflow(server, contexts, adapters[:1], config)
    after = server.not_shared()
    counted = None
    if before is not None and after is not None:
        counted = {reason: after[reason] - before.get(reason, 0) for reason in after}
    return BenchResult(
        server.base_url, adapters, config.seed, tuple(pairs), workflow, single, counted
    )


def _pair(server: BenchServer, contexts: Contexts, writer: str, reader: str, rounds: int) -> Pair:
    cold, warm, over = [], [], []
    for _ in range(rounds):
        prompt = contexts.fresh() + _TURN
        cold.append(server.complete(writer, prompt, 1))
        warm.append(server.complete(writer, prompt, 1))
        over.append(server.complete(reader, prompt, 1))
    return Pair.of(writer, reader, cold, warm, over)


def _workflow(
    server: BenchServer, contexts: Contexts, agents: tuple[str, ...], config: BenchConfig
) -> Workflow:
    starts = [contexts.fresh() for _ in range(config.sessions)]

    def session(number: int) -> list[Call]:
        text, calls = starts[number], []
        for turn in range(config.turns):
            agent = agents[(number + turn) % len(agents)]
            calls.append(server.complete(agent, text + _TURN, config.turn_tokens))
            text += _TURN + calls[-1].text
        return calls

    started = time.perf_counter()
    with ThreadPoolExecutor(config.sessions) as threads:
        calls = [call for each in threads.map(session, range(config.sessions)) for call in each]
    return Workflow(
        agents,
        config.sessions,
        config.turns,
        generated_tokens=sum(call.generated_tokens for call in calls),
        prompt_tokens=sum(call.prompt_tokens for call in calls),
        seconds=time.perf_counter() - started,
        ttft_s=median(call.ttft_s for call in calls),
        cached=cached_share(calls, reports(calls)),
    )

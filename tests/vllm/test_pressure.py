"""Chunked prefill, preemption and eviction change no token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.models import prompt_of
from tests.vllm.serving import AGENTS, Answer, Ask, Embedded, Served, folders, sharing

CONTEXT = prompt_of(300)


@pytest.fixture(scope="module", params=["isolated", "full", "base", "base+lr"])
def policy(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def chunked(policy: str, root: Path) -> Iterator[Served]:
    """Steps of 48 tokens at most, and 40 pages."""
    adapters = folders(root, "own")
    with Served(
        root / "llama",
        adapters,
        sharing(policy, adapters),
        max_num_batched_tokens=48,
        max_model_len=512,
        num_gpu_blocks_override=41,
    ) as served:
        yield served


def test_chunked_prefill(chunked: Served, policy: str, root: Path):
    chunked.reset()
    batch = [Ask(n, [*CONTEXT, *prompt_of(9 + i, 70 + i)]) for i, n in enumerate(AGENTS)]
    with Embedded(folders(root, "own"), policy) as embedded:
        for ask in batch:
            assert tokens(chunked.ask(ask)) == tokens(embedded.ask(ask)), ask.name


def test_preemption(chunked: Served, policy: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    """Six requests of 90 tokens that grow to 130 do not fit into 40 pages of 16."""
    chunked.reset()
    preempted: list[str] = []
    stock = chunked.core.scheduler._preempt_request

    def preempt(request: Any, *args: Any, **kwargs: Any) -> None:
        preempted.append(request.request_id)
        stock(request, *args, **kwargs)

    monkeypatch.setattr(chunked.core.scheduler, "_preempt_request", preempt)
    batch = [Ask(name, prompt_of(90, 10 + i)) for i, name in enumerate((*AGENTS, None) * 2)]
    with Embedded(folders(root, "own"), policy) as embedded:
        assert tokens(chunked.ask(*batch, tokens=40)) == tokens(embedded.ask(*batch, tokens=40))
    assert preempted


def test_eviction(chunked: Served, policy: str, root: Path):
    """A context is read, pushed out by others, and read again by another agent."""
    chunked.reset()
    first = Ask("plan", CONTEXT)
    others = [Ask("act", prompt_of(300, 30 + i)) for i in range(3)]
    again = Ask("reflect", CONTEXT)
    got = [tokens(chunked.ask(ask)) for ask in (first, *others)]
    [answer] = chunked.ask(again)
    assert answer.cached == 0, "the context was meant to be evicted"
    with Embedded(folders(root, "own"), policy) as embedded:
        assert got == [tokens(embedded.ask(ask)) for ask in (first, *others)]
    with Embedded(folders(root, "own"), policy) as embedded:
        assert [answer.tokens] == tokens(embedded.ask(again))


def tokens(answers: list[Answer]) -> list[tuple[int, ...]]:
    return [answer.tokens for answer in answers]

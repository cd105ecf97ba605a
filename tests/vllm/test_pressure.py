"""Chunked prefill, preemption and eviction change no token, of a tiny model and of SmolLM2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.engine.models import prompt_of
from tests.vllm.serving import (
    AGENTS,
    Answer,
    Ask,
    Embedded,
    Served,
    folders,
    running_text,
    sharing,
)

from lragent.agents.demo import demo_adapters
from lragent.smollm2 import NAME, convert


def text_of(length: int, seed: int = 0) -> list[int]:
    """Token ids of running text that begins elsewhere for each seed."""
    start = 5 * seed
    found = running_text()[start : start + length]
    assert len(found) == length
    return found


@dataclass(frozen=True)
class World:
    """A model in both engines, with adapters, and what it is asked."""

    folder: Path
    adapters: dict[str, Path]
    embedded: str | None
    policy: str
    prompt: Callable[..., list[int]]

    def engine(self) -> Embedded:
        return Embedded(self.adapters, self.policy, self.embedded)


WORLDS = [("tiny", policy) for policy in ("isolated", "neutral", "full", "base", "base+lr")]
WORLDS += [("smollm", "base"), ("smollm", "base+lr")]  # under which pages are filled twice


@pytest.fixture(scope="module", params=WORLDS, ids="-".join)
def world(request: pytest.FixtureRequest, root: Path) -> World:
    model, policy = request.param
    if model == "tiny":
        return World(root / "llama", folders(root, "own"), None, policy, prompt_of)
    return World(convert(), demo_adapters(), NAME, policy, text_of)


@pytest.fixture(scope="module")
def chunked(world: World) -> Iterator[Served]:
    """Steps of 48 tokens at most, and 40 pages."""
    with Served(
        world.folder,
        world.adapters,
        sharing(world.policy, world.adapters),
        max_num_batched_tokens=48,
        max_model_len=512,
        num_gpu_blocks_override=41,
        kv_cache_memory_bytes=256 << 20,
    ) as served:
        yield served


def test_chunked_prefill(chunked: Served, world: World):
    chunked.reset()
    batch = [
        Ask(n, [*world.prompt(300), *world.prompt(9 + i, 70 + i)]) for i, n in enumerate(AGENTS)
    ]
    with world.engine() as embedded:
        for ask in batch:
            assert tokens(chunked.ask(ask)) == tokens(embedded.ask(ask)), ask.name


def test_preemption(chunked: Served, world: World, monkeypatch: pytest.MonkeyPatch):
    """Six requests of 90 tokens that grow to 130 do not fit into 40 pages of 16."""
    chunked.reset()
    preempted = chunked.preempted(monkeypatch)
    batch = [Ask(name, world.prompt(90, 10 + i)) for i, name in enumerate((*AGENTS, None) * 2)]
    with world.engine() as embedded:
        assert tokens(chunked.ask(*batch, tokens=40)) == tokens(embedded.ask(*batch, tokens=40))
    assert preempted


def test_eviction(chunked: Served, world: World):
    """A context is read, pushed out by others, and read again by another agent."""
    chunked.reset()
    first = Ask("plan", world.prompt(300))
    others = [Ask("act", world.prompt(300, 30 + i)) for i in range(3)]
    again = Ask("reflect", world.prompt(300))
    got = [tokens(chunked.ask(ask)) for ask in (first, *others)]
    [answer] = chunked.ask(again)
    assert answer.cached == 0, "the context was meant to be evicted"
    with world.engine() as embedded:
        assert got == [tokens(embedded.ask(ask)) for ask in (first, *others)]
    with world.engine() as embedded:
        assert [answer.tokens] == tokens(embedded.ask(again))


def tokens(answers: list[Answer]) -> list[tuple[int, ...]]:
    return [answer.tokens for answer in answers]

"""No request ever reads a row that holds something else: 100,000 reads and more a policy."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.vllm.core.world import World
from tests.vllm.serving import AGENTS, folders, sharing

from lragent.vllm.core import block_validity, request_keys
from lragent.vllm.core.bindings import ServedBinding
from lragent.vllm.messages import NEVER

READS = 100_000


def world(root: Path, policy: str, kind: str = "own", ahead: bool = False) -> World:
    """Adapters on one A (shared), with their own, or with their own and known only as they come."""
    adapters = folders(root, "own" if kind == "late" else kind)
    option = sharing(policy, adapters)
    if kind == "late":
        option["adapters"] = {}
    return World(root / "llama", adapters, option, pages=32, ahead=ahead)


def play(world: World, reads: int, seed: int) -> None:
    """Growing contexts pass from agent to agent, several at a time, until that many reads."""
    choice = random.Random(seed)
    contexts = [[choice.randrange(3, 90) for _ in range(40)] for _ in range(4)]
    while world.memory.reads < reads and not world.memory.wrong:
        asked = []
        for index in choice.sample(range(4), 3):
            for name in choice.sample((*AGENTS, None), choice.choice((1, 1, 2))):
                salt = choice.choice((None, None, None, "tenant"))
                added = [choice.randrange(3, 90) for _ in range(choice.choice((0, 5, 16, 23)))]
                tokens = contexts[index] + added
                asked.append((index, world.submit(name, tokens, choice.randrange(1, 30), salt)))
        world.finish(choice)
        for index, request in asked:
            contexts[index] = world.tokens_of(request)
            if len(contexts[index]) > 400:
                contexts[index] = contexts[index][: choice.randrange(30, 200)]


@pytest.mark.parametrize("kind", ["shared", "own", "late"])
@pytest.mark.parametrize("policy", ["isolated", "neutral", "full", "base", "base+lr"])
def test_no_wrong_read(policy: str, kind: str, root: Path):
    check(world(root, policy, kind), policy)


@pytest.mark.every_version
@pytest.mark.parametrize("policy", ["isolated", "neutral", "full", "base", "base+lr"])
def test_no_wrong_read_with_a_scheduler_that_runs_ahead(policy: str, root: Path):
    check(world(root, policy, ahead=True), policy)


def check(here: World, policy: str) -> None:
    """Play, and find nothing wrong though pages were short, hit and computed again."""
    play(here, READS, seed=1)
    assert here.memory.reads >= READS
    assert here.memory.wrong == []
    here.plugin.validity.check_integrity(here.scheduler.requests)
    assert here.preempted > 0, "the pages were meant not to suffice"
    counters = here.plugin.validity.counters
    assert counters.base_hit_tokens > 0
    assert (counters.recomputed_tokens > counters.base_hit_tokens // 4) == (policy == "base")


Fault = Callable[[World, pytest.MonkeyPatch], None]


def keep_bits(here: World, patch: pytest.MonkeyPatch) -> None:
    """Validity bits stay when a page is handed out again."""

    class Kept(defaultdict[int, int]):
        def pop(self, *_: object) -> int:
            return 0

    here.plugin.validity.bits = Kept(int)


def one_page_more(here: World, patch: pytest.MonkeyPatch) -> None:
    """Each base hit is taken to reach one page further."""
    validity = here.plugin.validity
    stock = validity._admit

    def admit(request: Any, computed: int) -> None:
        base, fills, lr = validity._found[request.request_id]
        validity._found[request.request_id] = (base + 16, fills, lr)
        stock(request, computed)

    patch.setattr(validity, "_admit", admit)


def names_as_keys(here: World, patch: pytest.MonkeyPatch) -> None:
    """Page keys say nothing of the contents."""
    patch.setattr(ServedBinding, "keys", ["lragent:same"])


def turns_are_published(here: World, patch: pytest.MonkeyPatch) -> None:
    """Blocks with a token of a turn have a hash, and others find them."""
    for module in (block_validity, request_keys):
        patch.setattr(module, "shareable", lambda request: NEVER)


@pytest.mark.parametrize(
    ("fault", "policy", "kind"),
    [
        (keep_bits, "base", "own"),
        (one_page_more, "base", "own"),
        (names_as_keys, "isolated", "own"),
        (turns_are_published, "neutral", "shared"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_caught(
    fault: Fault, policy: str, kind: str, root: Path, monkeypatch: pytest.MonkeyPatch
):
    here = world(root, policy, kind)
    fault(here, monkeypatch)
    play(here, READS, seed=1)
    assert here.memory.wrong

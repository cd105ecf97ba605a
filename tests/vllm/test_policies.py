"""Token for token the embedded engine's output, under every policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.models import prompt_of
from tests.vllm.serving import AGENTS, PAGE, Answer, Ask, Embedded, Served, folders, sharing

CONTEXT = prompt_of(300)
POLICIES = ("isolated", "neutral", "full", "base", "base+lr")


BOTH = {("full", "own"), ("base", "own"), ("base+lr", "shared"), ("base+lr", "keys")}
PAIRS = [
    pytest.param((p, k), marks=[pytest.mark.every_version] if (p, k) in BOTH else [], id=f"{p}-{k}")
    for p in POLICIES
    for k in ("shared", "own", "keys")
]


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, root: Path) -> Iterator[tuple[Served, str, str]]:
    policy, kind = request.param
    adapters = folders(root, kind)
    option = sharing(policy, adapters, key_lora=kind == "keys")
    with Served(root / "llama", adapters, option) as served:
        yield served, policy, kind


def test_agents_one_after_the_other(pair: tuple[Served, str, str], root: Path):
    """Each agent gets the context of the one before, its answer, and tokens of its own."""
    served, policy, kind = pair
    served.reset()
    with Embedded(folders(root, kind), policy) as embedded:
        context = list(CONTEXT)
        for turn, name in enumerate((*AGENTS, None, "plan", "reflect")):
            ask = Ask(name, context)
            [got], [expected] = served.ask(ask), embedded.ask(ask)
            assert got.tokens == expected.tokens, (turn, name)
            assert got.cached == expected.cached // PAGE * PAGE
            context = [*context, *got.tokens, *prompt_of(20 + turn, 50 + turn)]


def test_mixed_batches(pair: tuple[Served, str, str], root: Path):
    """All agents and the base model at once, on a context that one has read and on others."""
    served, policy, kind = pair
    served.reset()
    first = Ask("plan", CONTEXT)
    batch = [Ask(n, [*CONTEXT, *prompt_of(9 + i, 70 + i)]) for i, n in enumerate((*AGENTS, None))]
    batch += [Ask(n, prompt_of(40 + 7 * i, 90 + i)) for i, n in enumerate((None, *AGENTS))]
    with Embedded(folders(root, kind), policy) as embedded:
        assert tokens(served.ask(first)) == tokens(embedded.ask(first))
        assert tokens(served.ask(*batch)) == tokens(embedded.ask(*batch))


def test_page_aligned_prompts(pair: tuple[Served, str, str], root: Path):
    served, policy, kind = pair
    served.reset()
    with Embedded(folders(root, kind), policy) as embedded:
        for name in ("plan", "act", "plan"):
            ask = Ask(name, CONTEXT[: 6 * PAGE])
            assert tokens(served.ask(ask)) == tokens(embedded.ask(ask)), name


def tokens(answers: list[Answer]) -> list[tuple[int, ...]]:
    return [answer.tokens for answer in answers]

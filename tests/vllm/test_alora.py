"""aLoRA adapters give what PEFT gives, and share one context with each other and the base model."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import generate, prompt_of, tiny_model
from tests.vllm.conftest import LINEAR
from tests.vllm.serving import PAGE, Ask, Served, sharing

TOKENS = {"check": [5, 6], "judge": [9]}
PLAIN = [t for t in prompt_of(90, 1) if t not in (5, 6, 9)][:70]
"""Text that invokes nobody."""
FULL = len(PLAIN) // PAGE * PAGE


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two aLoRA adapters of all linear layers, `k_proj` too, and an ordinary one."""
    folder, model = tmp_path_factory.mktemp("alora"), tiny_model()
    made = {
        name: make_adapter(
            folder / name, model, rank=4 + seed, seed=seed, std=0.1, targets=LINEAR,
            alora_invocation_tokens=tokens,
        )
        for seed, (name, tokens) in enumerate(TOKENS.items())
    }  # fmt: skip
    return made | {"plan": make_adapter(folder / "plan", model, rank=4, seed=9)}


@pytest.fixture(scope="module")
def served(root: Path, folders: dict[str, Path]) -> Iterator[Served]:
    """A group of all three; prompts are computed in pieces of 32 tokens."""
    option = sharing("neutral", folders, alora=True, debug=True)
    with Served(root / "llama", folders, option, max_num_batched_tokens=32) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(root: Path, folders: dict[str, Path]) -> Iterator[Served]:
    option: dict[str, Any] = {"alora": True, "allow_other_base": True}
    with Served(root / "llama", folders, option) as engine:
        yield engine


@pytest.mark.parametrize("engine", ["served", "alone"])
@pytest.mark.parametrize("name", TOKENS)
def test_equals_peft(
    engine: str, name: str, folders: dict[str, Path], request: pytest.FixtureRequest
):
    here: Served = request.getfixturevalue(engine)
    model, tokens, tail = tiny_model(), TOKENS[name], prompt_of(11, 2)
    prompts = [
        [*PLAIN, *tokens, *tail],
        [*tokens, *tail, *PLAIN, *tokens],  # the last occurrence counts
        [*tokens, *tail],  # no context at all
        PLAIN,  # does not act
    ]
    expected = [tuple(generate(model, p, 8, folders[name]).tokens) for p in prompts]
    for prompt, answer in zip(prompts, expected, strict=True):
        assert here.ask(Ask(name, prompt))[0].tokens == answer
    batch = here.ask(*(Ask(name, prompt) for prompt in prompts))
    assert [found.tokens for found in batch] == expected


def test_all_share_one_context(served: Served, folders: dict[str, Path]):
    served.reset()
    model = tiny_model()
    for place, (name, tokens) in enumerate([(None, []), *TOKENS.items(), ("plan", [])]):
        prompt = [*PLAIN, *tokens, 3]
        [found] = served.ask(Ask(name, prompt))
        assert found.cached == (FULL if place else 0)
        if name != "plan":  # whose context is not PEFT's
            folder = None if name is None else folders[name]
            assert found.tokens == tuple(generate(model, prompt, 8, folder).tokens)


def test_its_own_turn_is_private(served: Served):
    served.reset()
    prompt = [5, 6, *PLAIN]
    for _ in range(2):
        assert served.ask(Ask("check", prompt))[0].cached == 0
    served.ask(Ask(None, prompt))
    assert served.ask(Ask("check", prompt))[0].cached == 0

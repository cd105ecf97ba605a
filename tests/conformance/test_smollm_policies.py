"""What the policies save on a 1,024-token context passed through the three bundled agents."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lragent.engine import Engine, SamplingParams

CONTEXT = 1024
AGENTS = ("plan", "act", "reflect")
NEW = 7


def hand_over(engine: Engine, ids: Callable[[int], list[int]]) -> list[int]:
    """Pass the context through the agents, each with a few tokens of its own; returns the tokens
    that each of them passed through the model.
    """
    computed = []
    params = SamplingParams(max_tokens=1, ignore_eos=True)
    for turn, name in enumerate(AGENTS):
        engine.generate(ids(CONTEXT + NEW * turn), adapter=name, sampling_params=params)
        sums = engine.stats().adapters[name]
        computed.append(sums.computed_tokens + sums.recomputed_tokens)
        engine.check_integrity()
    return computed


@pytest.fixture(scope="module")
def measured(
    adapters: dict[str, object], text_ids: Callable[[int], list[int]]
) -> dict[str, tuple[int, list[int]]]:
    """Bytes of K, V and LR, and computed tokens, by policy."""
    found = {}
    for policy in ("isolated", "neutral", "base", "base+lr"):
        with Engine("smollm2", adapters, policy) as engine:  # pyright: ignore[reportArgumentType]
            computed = hand_over(engine, text_ids)
            stats = engine.stats()
            found[policy] = (stats.kv_base_bytes + stats.kv_lr_bytes, computed)
    return found


@pytest.mark.parametrize(("policy", "most"), [("neutral", 0.36), ("base+lr", 0.36), ("base", 0.38)])
def test_kv_bytes_against_isolated(
    policy: str, most: float, measured: dict[str, tuple[int, list[int]]]
):
    assert measured[policy][0] <= most * measured["isolated"][0]


@pytest.mark.parametrize("policy", ["neutral", "base+lr"])
def test_the_second_agent_computes_a_page_at_most(
    policy: str, measured: dict[str, tuple[int, list[int]]]
):
    assert measured["isolated"][1] == [CONTEXT, CONTEXT + NEW, CONTEXT + 2 * NEW]
    computed = measured[policy][1]
    assert computed[0] == CONTEXT
    assert all(count <= 16 + NEW for count in computed[1:])


def test_layer_0_values_are_bit_equal_between_agents(
    engine_with: Callable[..., Engine], text_ids: Callable[[int], list[int]]
):
    rows = {}
    for name in AGENTS:
        with engine_with("base+lr") as engine:
            request = engine.submit(text_ids(256), adapter=name)
            engine.step()
            views = engine._runner.storage.views
            rows[name] = [views[layer].v[:16].clone() for layer in (0, 1)]
            request.cancel()
    for other in AGENTS[1:]:
        assert torch.equal(rows["plan"][0], rows[other][0])
        assert not torch.equal(rows["plan"][1], rows[other][1])

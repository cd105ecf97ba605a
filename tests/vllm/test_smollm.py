"""SmolLM2 and the bundled adapters, in fp32: token for token the embedded engine's output."""

from __future__ import annotations

import pytest
from tests.vllm.serving import AGENTS, PAGE, Ask, Embedded, Served, running_text, sharing

from lragent.agents.demo import demo_adapters
from lragent.smollm2 import NAME, convert

CONTEXT = 400


@pytest.mark.parametrize("policy", ["isolated", "full", "base", "base+lr", "neutral"])
def test_agents_in_turn_then_all_at_once(policy: str):
    ids = running_text()
    adapters = demo_adapters()
    context = ids[:CONTEXT]
    settings = {"kv_cache_memory_bytes": 256 << 20, "max_num_batched_tokens": 2048}
    option = sharing(policy, adapters, slots=3 if policy == "base" else 1)
    with (
        Served(convert(), adapters, option, **settings) as served,
        Embedded(adapters, policy, NAME) as embedded,
    ):
        for turn, name in enumerate(AGENTS):
            ask = Ask(name, context)
            [got], [expected] = served.ask(ask, tokens=12), embedded.ask(ask, tokens=12)
            assert got.tokens == expected.tokens, name
            assert got.cached == expected.cached // PAGE * PAGE
            context = [*context, *got.tokens, *ids[500 + 9 * turn : 509 + 9 * turn]]
        batch = [Ask(n, [*context, *ids[600 + 5 * i : 611 + 7 * i]]) for i, n in enumerate(AGENTS)]
        batch.append(Ask(None, ids[:90]))
        got = [answer.tokens for answer in served.ask(*batch, tokens=12)]
        assert got == [answer.tokens for answer in embedded.ask(*batch, tokens=12)]

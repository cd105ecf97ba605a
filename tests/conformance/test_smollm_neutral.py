"""`neutral` on a real model: any order of agents gives what the dense reference gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engine.neutral_jobs import Judge, Story, mixed_adapters, tell
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lragent.engine import Engine

KV_BYTES = 24 * 30 * 8 * (2 * 192 + 3 * (16 + 3)) * 4
"""24 pages of 8 tokens: 30 layers, K and V_base of 192 each, three LR slots of 16 for values and 3
for keys, in fp32.
"""


# Three rounds are about 15 requests, 100 about 500.
@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.long)])
def test_order_eviction_and_preemption_change_no_answer(
    rounds: int,
    adapters: dict[str, Path],
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    text_ids: Callable[[int], list[int]],
    tmp_path: Path,
):
    """Of two bundled adapters and others of more ranks and targets."""
    found = adapters | mixed_adapters(tmp_path, loaded[0], std=0.15)
    members = {name: found[name] for name in ("plan", "act", "all", "rs")}
    story = Story(random.Random(72), 40_000, 120, texts=[[], text_ids(80), text_ids(110)])
    with Engine(
        "smollm2", members, "neutral", page_size=8, max_num_batched_tokens=64, kv_bytes=KV_BYTES
    ) as engine:
        done = tell(engine, (*members, None), story, rounds, Judge(loaded[0], members))
        stats = engine.stats()
    assert {name for name, _, _ in done} == {*members, None}
    assert stats.evictions
    assert stats.preemptions
    assert stats.total.reused_tokens

"""`neutral` on a real model: any order of agents gives what the dense reference gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from tests.engine.neutral_jobs import Judge, Story, tell
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lragent.engine import Engine

KV_BYTES = 24 * 30 * 8 * (2 * 192 + 8) * 4
"""24 pages of 8 tokens: 30 layers, K and V_base of 192 each, one LR slot of 8, in fp32."""


def test_order_eviction_and_preemption_change_no_answer(
    adapters: dict[str, Path],
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    engine_with: Callable[..., Engine],
    text_ids: Callable[[int], list[int]],
):
    story = Story(random.Random(1), 40_000, 120, texts=[[], text_ids(80), text_ids(110)])
    with engine_with(
        "neutral", page_size=8, max_num_batched_tokens=64, kv_bytes=KV_BYTES
    ) as engine:
        tell(engine, (*adapters, None), story, 3, Judge(loaded[0], adapters))
        stats = engine.stats()
    assert stats.evictions
    assert stats.preemptions
    assert stats.total.reused_tokens

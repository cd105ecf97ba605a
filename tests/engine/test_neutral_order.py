"""Under `neutral` the order of agents, eviction and preemption change no answer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import FAMILIES, tiny_model
from tests.engine.neutral_jobs import (
    ALL_LINEAR,
    ATOL,
    Judge,
    Story,
    mixed_adapters,
    neutral_engine,
    tell,
)
from transformers import PreTrainedModel

from lragent.engine import SamplingParams

INVOCATION = (7, 8)
ROUNDS = [18, pytest.param(100, marks=pytest.mark.long)]
"""About 100 requests, and 500."""


def agents(root: Path, model: PreTrainedModel) -> dict[str, Path]:
    """Ordinary ones, and one that is an aLoRA adapter."""
    return {
        **mixed_adapters(root, model),
        "alora": make_adapter(
            root / "alora",
            model,
            rank=8,
            seed=4,
            targets=ALL_LINEAR,
            std=0.1,
            alora_invocation_tokens=list(INVOCATION),
        ),
    }


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_order_gives_what_each_request_gives_alone(family: str, rounds: int, tmp_path: Path):
    reference = tiny_model(family)
    adapters = agents(tmp_path, reference)
    story = Story(random.Random(family), 96, 150, INVOCATION)
    with neutral_engine(adapters, family, page_size=4) as alone:
        budget = 44 * alone.layout.page_bytes * alone.shape.layers
        with neutral_engine(
            adapters, family, page_size=4, max_num_batched_tokens=48, kv_bytes=budget
        ) as engine:
            done = tell(engine, (*adapters, None), story, rounds, Judge(reference, adapters))
            stats = engine.stats()
        assert stats.evictions > 100
        assert stats.preemptions >= 5
        assert stats.total.reused_tokens > 500
        requests = [
            alone.submit(
                prompt,
                adapter=name,
                sampling_params=SamplingParams(
                    max_tokens=len(got.token_ids), logprobs=0, ignore_eos=True
                ),
                cache_salt=f"request {number}",  # an empty cache for each
            )
            for number, (name, prompt, got) in enumerate(done)
        ]
        for (_, _, got), request in zip(done, requests, strict=True):
            again = request.result()
            assert again.cached_tokens == 0
            assert again.token_ids == got.token_ids
            expected = [entry.logprob for entry in again.logprobs]
            assert [e.logprob for e in got.logprobs] == pytest.approx(expected, abs=ATOL)

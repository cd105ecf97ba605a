"""A request gets the same tokens alone, in a mixed batch, in chunks, and after preemption."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.models import prompt_of, tiny_model

from lragent.engine import Engine, SamplingParams

NAMES = ("plan", "act", "reflect", None)
JOBS = [(NAMES[i % 4], prompt_of(20 + 37 * i, i)) for i in range(8)]
PARAMS = SamplingParams(max_tokens=20, ignore_eos=True)


@pytest.fixture(scope="module")
def alone(shared_a: dict[str, Path]) -> list[tuple[int, ...]]:
    """Each request by itself, in an engine that has served nothing else."""
    answers = []
    for name, prompt in JOBS:
        with Engine((tiny_model(), None), shared_a) as engine:
            answers.append(engine.generate(prompt, adapter=name, sampling_params=PARAMS).token_ids)
    return answers


@pytest.mark.parametrize("chunk", [512, 64, 7])
def test_mixed_batch_equals_alone(
    chunk: int, shared_a: dict[str, Path], alone: list[tuple[int, ...]]
):
    with Engine((tiny_model(), None), shared_a, max_num_batched_tokens=chunk) as engine:
        requests = [engine.submit(p, adapter=name, sampling_params=PARAMS) for name, p in JOBS]
        assert [request.result().token_ids for request in requests] == alone


def test_one_step_serves_several_adapters_and_the_base_model(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a) as engine:
        requests = [
            engine.submit([5, 6, 7], adapter=name, sampling_params=PARAMS) for name in NAMES
        ]
        engine.step()
        assert all(len(request.token_ids) == 1 for request in requests)


def test_preemption_changes_no_token(shared_a: dict[str, Path], alone: list[tuple[int, ...]]):
    page_bytes = 3 * (2 * 2 * 8 * 16 + 16 * 4) * 4
    longest = -(-(len(JOBS[-1][1]) + 20) // 16)
    budget = (longest + 12) * page_bytes
    with Engine((tiny_model(), None), shared_a, kv_bytes=budget, page_size=16) as engine:
        requests = [engine.submit(p, adapter=name, sampling_params=PARAMS) for name, p in JOBS]
        results = []
        while not all(request.done for request in requests):
            engine.step()
            engine.check_integrity()
        results = [request.result().token_ids for request in requests]
        assert results == alone
        assert engine.stats().evictions > 0


def test_running_requests_are_preempted_when_they_outgrow_the_budget(shared_a: dict[str, Path]):
    page_bytes = 3 * (2 * 2 * 8 * 16 + 16 * 4) * 4
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    prompts = [prompt_of(30, seed) for seed in range(3)]
    with Engine((tiny_model(), None), shared_a) as roomy:
        expected = [
            roomy.generate(p, adapter="plan", sampling_params=params).token_ids for p in prompts
        ]
    with Engine((tiny_model(), None), shared_a, kv_bytes=9 * page_bytes) as engine:
        requests = [engine.submit(p, adapter="plan", sampling_params=params) for p in prompts]
        assert [request.result().token_ids for request in requests] == expected
        assert engine.stats().preemptions > 0
        engine.check_integrity()


def test_a_stream_that_gives_its_pages_back_stops_nobody(shared_a: dict[str, Path]):
    """Decoding goes first in a step, here by a request that is last in the order of requests."""
    page_bytes = 3 * (2 * 2 * 8 * 16 + 16 * 4) * 4
    prompts = [prompt_of(10), prompt_of(200, 1)]
    with Engine((tiny_model(), None), shared_a) as roomy:
        expected = [
            roomy.generate(p, adapter="plan", sampling_params=PARAMS).token_ids for p in prompts
        ]
    with Engine(
        (tiny_model(), None), shared_a, kv_bytes=14 * page_bytes, max_num_batched_tokens=8
    ) as engine:
        stream = engine.submit(prompts[0], adapter="plan", sampling_params=PARAMS, priority=1)
        engine.step()
        engine.step()
        long = engine.submit(prompts[1], adapter="plan", sampling_params=PARAMS)
        while not (stream.done and long.done):
            assert engine.step()
            engine.check_integrity()
        assert [one.result().token_ids for one in (stream, long)] == expected
        assert engine.stats().preemptions > 0


def test_running_streams_go_on_while_a_long_prompt_is_read(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, max_num_batched_tokens=32) as engine:
        first = engine.submit(prompt_of(10), adapter="plan", sampling_params=PARAMS)
        engine.step()
        _second = engine.submit(prompt_of(300), adapter="act", sampling_params=PARAMS)
        for expected in range(2, 8):
            engine.step()
            assert len(first.token_ids) == expected

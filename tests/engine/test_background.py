"""Requests that run while nobody waits: the thread in the background, and event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.models import prompt_of, tiny_model

from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import EngineClosedError, GenerationFailedError, QueueFullError

PROMPT = prompt_of(40)
PARAMS = SamplingParams(max_tokens=10, ignore_eos=True)
LONG = SamplingParams(max_tokens=1900, ignore_eos=True)
MOST_S = 60


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + MOST_S
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def alone(shared_a: dict[str, Path]) -> tuple[int, ...]:
    with Engine((tiny_model(), None), shared_a) as engine:
        return engine.generate(PROMPT, PARAMS, adapter="plan").token_ids


@pytest.fixture
def engine(shared_a: dict[str, Path], alone: tuple[int, ...]) -> Iterator[Engine]:
    """Whatever a test does to it, it must go on serving and keep its books."""
    with Engine((tiny_model(), None), shared_a, background=True) as engine:
        yield engine
        assert engine.generate(PROMPT, PARAMS, adapter="plan").token_ids == alone
        until(lambda: engine.stats().pages["leased"] == 0)
        engine.check_integrity()


def threads() -> int:
    return sum(thread.name == "lragent-engine" for thread in threading.enumerate())


def test_a_request_runs_while_nobody_waits(engine: Engine, alone: tuple[int, ...]):
    request = engine.submit(PROMPT, PARAMS, adapter="plan")
    until(lambda: request.done)
    assert request.completion().token_ids == alone
    assert [token for chunk in request for token in chunk.token_ids] == list(alone)


def test_many_clients_stream_at_once(engine: Engine, alone: tuple[int, ...]):
    answers: list[tuple[int, ...]] = []

    def client() -> None:
        stream = engine.generate(PROMPT, PARAMS, adapter="plan", stream=True)
        answers.append(tuple(token for chunk in stream for token in chunk.token_ids))

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(MOST_S)
    assert answers == [alone] * 8


def test_cancel_all_ends_what_runs_and_what_waits(engine: Engine):
    requests = [engine.submit(PROMPT, LONG) for _ in range(40)]
    until(lambda: bool(requests[0].token_ids))
    engine.cancel_all()
    assert {request.finish_reason for request in requests} == {"cancelled"}


def test_a_dropped_handle_is_cancelled(engine: Engine):
    held = [engine.submit(PROMPT, LONG, adapter="act")]
    until(lambda: bool(held[0].token_ids))
    held.clear()
    gc.collect()
    until(lambda: engine.stats().adapters["act"].cancelled == 1)


def test_a_deadline_ends_a_request_as_it_is(engine: Engine):
    late = engine.submit(PROMPT, LONG, deadline=0.15).result()
    assert late.finish_reason == "deadline"
    assert 0 < len(late.token_ids) < 1900
    assert engine.generate(PROMPT, PARAMS, deadline=MOST_S).finish_reason == "length"
    for wrong, error in ((0, ValueError), (-1.0, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="deadline must be"):
            engine.submit(PROMPT, PARAMS, deadline=wrong)  # pyright: ignore[reportArgumentType]


def test_failing_steps_do_not_end_the_thread(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise RuntimeError("device lost")

        patch.setattr(engine._runner, "run", fail)
        with pytest.raises(GenerationFailedError, match="device lost"):
            engine.generate(PROMPT, PARAMS)
        # outside of any request's work: everybody is told, nobody waits for ever
        patch.setattr(engine._core.loop, "step", fail)
        waiting = [engine.submit(PROMPT, PARAMS) for _ in range(2)]
        for request in waiting:
            with pytest.raises(GenerationFailedError, match="device lost"):
                request.result()
        patch.setattr(engine._core.loop, "restart", fail)
        with pytest.raises(GenerationFailedError, match="device lost"):
            engine.generate(PROMPT, PARAMS)
        with pytest.raises(GenerationFailedError, match=r"does not recover .*device lost"):
            engine.submit(PROMPT, PARAMS)


def test_one_bad_step_is_mended(engine: Engine, alone: Any, monkeypatch: pytest.MonkeyPatch):
    whole, calls = engine._core.loop.step, []

    def fail_once() -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("a flaw outside of any request")
        return whole()

    monkeypatch.setattr(engine._core.loop, "step", fail_once)
    assert engine.generate(PROMPT, PARAMS, adapter="plan").token_ids == alone


def test_close_ends_requests_and_the_thread(shared_a: dict[str, Path]):
    before = threads()
    engine = Engine((tiny_model(), None), shared_a, background=True)
    request = engine.submit(PROMPT, LONG)
    assert threads() == before + 1
    waiter = threading.Thread(target=request.result)
    waiter.start()
    engine.close()
    waiter.join(MOST_S)
    assert request.finish_reason == "cancelled"
    assert threads() == before
    with pytest.raises(EngineClosedError):
        engine.submit(PROMPT, PARAMS)


# ---- these need no thread


def test_who_asks_comes_before_the_next_step(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a) as engine:
        request = engine.submit(PROMPT, PARAMS)
        step = threading.Thread(target=engine._core._step_in_turn)
        with engine._core._door:  # held by a caller that waits for the step before to end
            step.start()
            step.join(0.5)
            assert step.is_alive()
        step.join(MOST_S)
        assert len(request.token_ids) == 1


def test_a_full_queue_refuses(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, max_num_seqs=2, max_waiting=1) as engine:
        requests = [engine.submit(PROMPT, PARAMS) for _ in range(3)]
        with pytest.raises(QueueFullError, match="3 requests run or wait"):
            engine.submit(PROMPT, PARAMS)
        assert len({request.result().token_ids for request in requests}) == 1
        assert engine.generate(PROMPT, PARAMS).finish_reason == "length"
        with pytest.raises(TypeError, match="max_waiting"):
            Engine((tiny_model(), None), max_waiting="5")  # pyright: ignore[reportArgumentType]


def test_lower_priority_numbers_go_first(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, max_num_seqs=1) as engine:
        requests = {
            name: engine.submit(PROMPT, PARAMS, priority=priority)
            for name, priority in (("a", 5), ("b", 0), ("c", 5), ("d", -1))
        }
        order: list[str] = []
        while engine.step():
            order += [n for n, r in requests.items() if r.done and n not in order]
        assert order == ["d", "b", "a", "c"]
        with pytest.raises(TypeError, match="priority"):
            engine.submit(PROMPT, PARAMS, priority=0.5)  # pyright: ignore[reportArgumentType]


def test_preemption_takes_the_lowest_priority(shared_a: dict[str, Path]):
    page_bytes = 3 * (2 * 2 * 8 * 16 + 16 * 4) * 4
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    prompts = [prompt_of(30, seed) for seed in range(3)]
    with Engine((tiny_model(), None), shared_a) as roomy:
        expected = [roomy.generate(p, params, adapter="plan").token_ids for p in prompts]
    with Engine((tiny_model(), None), shared_a, kv_bytes=9 * page_bytes) as engine:
        requests = [
            engine.submit(p, params, adapter="plan", priority=-place)
            for place, p in enumerate(prompts)
        ]
        ended: list[int] = []
        while engine.step():
            ended += [i for i, r in enumerate(requests) if r.done and i not in ended]
        assert engine.stats().preemptions > 0
        assert ended == [2, 1, 0]
        assert [request.result().token_ids for request in requests] == expected


# ---- event loops


def test_awaited_and_streamed_without_a_thread_each(
    shared_a: dict[str, Path], alone: tuple[int, ...]
):
    async def work(engine: Engine) -> None:
        request = await engine.asubmit(PROMPT, PARAMS, adapter="plan")
        streamed = [token async for chunk in request for token in chunk.token_ids]
        assert tuple(streamed) == alone
        one, many = await asyncio.gather(
            engine.agenerate(PROMPT, PARAMS, adapter="plan"),
            engine.agenerate([PROMPT] * 40, PARAMS, adapter="plan"),
        )
        assert {one.token_ids, *(answer.token_ids for answer in many)} == {alone}
        assert threading.active_count() < 40
        with pytest.raises(ValueError, match="between 0 and 95"):
            await engine.agenerate([0, 96])

    # an event loop starts the thread that it needs
    with Engine((tiny_model(), None), shared_a) as engine:
        asyncio.run(work(engine))
        engine.check_integrity()


def test_leaving_and_cancelling_tasks_cancels_requests(engine: Engine):
    async def work() -> None:
        request = await engine.asubmit(PROMPT, LONG, adapter="act")
        async for chunk in request:
            assert chunk.token_ids
            break
        del request
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.agenerate(PROMPT, LONG, adapter="act"), 0.1)

    asyncio.run(work())
    until(lambda: engine.stats().adapters["act"].cancelled == 2)


def test_an_event_loop_that_ended_disturbs_nobody(engine: Engine, alone: tuple[int, ...]):
    kept: list[Any] = []

    async def leave() -> None:
        request = await engine.asubmit(PROMPT, PARAMS, adapter="plan")
        kept.append(request)
        chunks = aiter(request)
        kept.append(chunks)
        await anext(chunks)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    assert engine.generate(PROMPT, PARAMS, adapter="plan").token_ids == alone

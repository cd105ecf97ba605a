"""What several ask about at once is computed once; nobody waits for more than they share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.models import prompt_of, tiny_model

from lragent.engine import Engine, SamplingParams
from lragent.engine.request import Request

NAMES = ("plan", "act", "reflect")
PARAMS = SamplingParams(max_tokens=6, ignore_eos=True)
CONTEXT = prompt_of(150)


def ask(engine: Engine, prompt: list[int], name: str | None) -> Request:
    return engine.submit(prompt, adapter=name, sampling_params=PARAMS)


@pytest.mark.parametrize("policy", ["neutral", "base+lr", "full", "isolated"])
@pytest.mark.parametrize("chunk", [512, 40])
def test_each_token_of_the_context_is_computed_once(
    policy: str, chunk: int, shared_a: dict[str, Path]
):
    prompts = [[*CONTEXT, 5, number] for number in range(3)]
    names = NAMES if policy != "isolated" else ("plan",) * 3
    with Engine((tiny_model(), None), shared_a, policy) as engine:
        # One after the other in one engine: `full` and `base+lr` depend on who read first.
        expected = [
            ask(engine, p, n).result().token_ids for p, n in zip(prompts, names, strict=True)
        ]
    with Engine((tiny_model(), None), shared_a, policy, max_num_batched_tokens=chunk) as engine:
        requests = [ask(engine, p, n) for p, n in zip(prompts, names, strict=True)]
        done = [request.result() for request in requests]
        assert [one.token_ids for one in done] == expected
        assert [one.cached_tokens for one in done] == [0, 144, 144]
        engine.check_integrity()


def test_nobody_waits_for_more_than_the_common_pages(shared_a: dict[str, Path]):
    """A long prompt takes each step's tokens, so what is asked is the scheduler."""
    long = prompt_of(400)
    with Engine((tiny_model(), None), shared_a, "base+lr", max_num_batched_tokens=64) as engine:
        requests = [ask(engine, long, "plan")]
        requests += [ask(engine, [*long[:n], 3, 4], "act") for n in (40, 80, 390)]
        engine.step()
        scheduler = engine._core.loop._scheduler
        assert [scheduler._waits(one) for one in scheduler.waiting] == [False, True, True]
        engine.step()
        assert [scheduler._waits(one) for one in scheduler.waiting] == [False, False, True]
        assert [one.result().cached_tokens for one in requests] == [0, 32, 80, 384]


def test_who_waited_goes_on_when_the_other_is_cancelled(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, "neutral") as engine:
        expected = ask(engine, CONTEXT, "act").result().token_ids
    with Engine((tiny_model(), None), shared_a, "neutral", max_num_batched_tokens=64) as engine:
        first, second = ask(engine, CONTEXT, "plan"), ask(engine, CONTEXT, "act")
        engine.step()
        first.cancel()
        done = second.result()
        assert done.token_ids == expected
        assert done.cached_tokens == 64


def test_tenants_and_other_weights_do_not_wait(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, "isolated") as engine:
        context = CONTEXT[:100]
        requests = [ask(engine, context, name) for name in NAMES]
        requests.append(
            engine.submit(context, adapter="plan", sampling_params=PARAMS, cache_salt="other")
        )
        engine.step()
        assert [len(request.token_ids) for request in requests] == [1, 1, 1, 1]


def test_who_waits_is_not_compared_again(
    shared_a: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    context = prompt_of(2000)
    with Engine((tiny_model(), None), shared_a, "base+lr", max_num_batched_tokens=64) as engine:
        requests = [ask(engine, [*context, n % 90], NAMES[n % 3]) for n in range(100)]
        engine.step()
        scheduler = engine._core.loop._scheduler
        assert all(scheduler._waits(one) for one in scheduler.waiting)

        def compare(*_: object) -> int:
            raise AssertionError("the prompts were compared before")

        monkeypatch.setattr(scheduler, "_in_common", compare)
        assert all(scheduler._waits(one) for one in scheduler.waiting)
        engine.step()
        engine.cancel_all()
        assert all(request.done for request in requests)

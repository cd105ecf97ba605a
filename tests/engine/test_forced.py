"""Outputs that the caller dictates, and handles that nobody outside of the engine can change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engine.models import generate, prompt_of, tiny_model
from transformers import PreTrainedModel

from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import PromptTooLongError

PROMPT = prompt_of(40)


def test_forced_tokens_have_the_models_log_probabilities(
    tiny: PreTrainedModel, shared_a: dict[str, Path]
):
    """Each step of greedy decoding, forced with another token at the end, scores as before."""
    free = generate(tiny, PROMPT, 6, shared_a["plan"])
    last = (free.tokens[-1] + 1) % 96
    with Engine((tiny_model(), None), shared_a) as engine:
        done = engine.submit(
            PROMPT,
            adapter="plan",
            sampling_params=SamplingParams(logprobs=96, temperature=2.0, max_tokens=1),
            forced=[*free.tokens[:-1], last],
        ).result()
    assert done.token_ids == (*free.tokens[:-1], last)
    assert done.finish_reason == "length"
    scores = [entry.logprob for entry in done.logprobs]
    assert scores[:-1] == pytest.approx(free.logprobs[:-1], abs=2e-5)
    assert done.logprobs[-1].top[free.tokens[-1]] == pytest.approx(free.logprobs[-1], abs=2e-5)
    assert scores[-1] == done.logprobs[-1].top[last] < free.logprobs[-1]


def test_the_end_token_does_not_end_a_forced_output():
    with Engine((tiny_model(), None)) as engine:
        forced = [1, 5, 1, 7]  # 1 is the end token
        assert engine.submit(PROMPT, forced=forced).result().token_ids == tuple(forced)


def test_forced_outputs_survive_preemption():
    """Two requests whose pages do not fit together: one gives its pages back and comes again."""
    page = 3 * (2 * 2 * 8 * 16 + 16 * 16) * 4
    forced = [prompt_of(40, seed) for seed in (1, 2)]
    with Engine((tiny_model(), None), kv_bytes=8 * page) as engine:
        requests = [engine.submit(prompt_of(40, i), forced=f) for i, f in enumerate(forced)]
        assert [list(request.result().token_ids) for request in requests] == forced
        assert engine.stats().preemptions > 0


@pytest.mark.parametrize(
    ("forced", "message"),
    [([], "forced is empty"), ([96], "between 0 and 95"), ([5] * 2009, "2009 forced ones exceed")],
)
def test_impossible_forced_outputs(forced: list[int], message: str):
    with (
        Engine((tiny_model(), None)) as engine,
        pytest.raises((ValueError, PromptTooLongError), match=message),
    ):
        engine.submit(PROMPT, forced=forced)


def test_a_handle_is_to_read():
    with Engine((tiny_model(), None)) as engine:
        request = engine.submit(
            PROMPT, sampling_params=SamplingParams(max_tokens=2, ignore_eos=True)
        )
        assert repr(request) == "Request(0, adapter=None, 40 prompt tokens, 0 generated, running)"
        assert (request.prompt_ids, request.cached_tokens) == (tuple(PROMPT), None)
        done = request.result()
        assert (request.token_ids, request.finish_reason) == (done.token_ids, "length")
        for name in ("token_ids", "prompt_ids", "adapter", "params", "finish_reason"):
            with pytest.raises(AttributeError):
                setattr(request, name, ())


def test_distributions_are_those_that_log_probabilities_come_from(shared_a: dict[str, Path]):
    """Only a request that asks for them gets them, whatever else is in its batch."""
    forced = prompt_of(4, 1)
    asking = SamplingParams(distributions=True)
    listing = SamplingParams(logprobs=96)
    with Engine((tiny_model(), None), shared_a) as engine:
        requests = [
            engine.submit(PROMPT, adapter="plan", sampling_params=params, forced=forced)
            for params in (asking, listing, asking)
        ]
        first, listed, second = (request.result() for request in requests)
    assert listed.distributions is None
    assert first.logprobs == ()
    assert first.distributions is not None
    assert second.distributions is not None
    expected = torch.tensor(
        [[entry.top[token] for token in range(96)] for entry in listed.logprobs]
    )
    torch.testing.assert_close(first.distributions, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(second.distributions, expected, atol=1e-5, rtol=0)

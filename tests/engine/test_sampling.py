"""Choosing tokens: against transformers' own processors, repeatable, whatever the batch."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.engine.models import prompt_of, tiny_model
from transformers import PreTrainedModel

from lragent.engine import Engine, SamplingParams
from lragent.engine.logits_edit import LogitsEdit
from lragent.engine.sampler import RequestSampler, sample

PROMPT = prompt_of(30)


@pytest.mark.parametrize(
    "field",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": 1e-38},
        {"temperature": 1e30},
        {"seed": 2**64},
        {"top_k": 2**63},
        {"repetition_penalty": 1e-40},
        {"repetition_penalty": 1e30},
        {"stop": ["x"] * 65},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -2},
        {"min_p": 1.5},
        {"presence_penalty": 2.5},
        {"frequency_penalty": math.nan},
        {"logit_bias": {3: 101.0}},
        {"logit_bias": {-3: 1.0}},
        {"stop_token_ids": [-1]},
        {"n": 0},
        {"min_tokens": 5, "max_tokens": 4},
        {"prompt_logprobs": -1},
        {"repetition_penalty": 0.0},
        {"stop": ""},
        {"logprobs": -1},
        {"tempature": 1.0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_field(field: dict[str, object]):
    with pytest.raises(ValidationError, match=next(iter(field))):
        SamplingParams.model_validate(field)


def test_penalised_greedy_equals_transformers(tiny: PreTrainedModel):
    own = copy.deepcopy(tiny)
    assert own.generation_config is not None
    own.generation_config.eos_token_id = None
    ids = torch.tensor([PROMPT])
    expected = own.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=16,
        do_sample=False,
        repetition_penalty=1.7,
        pad_token_id=0,
    )[0, 30:].tolist()
    params = SamplingParams(max_tokens=16, repetition_penalty=1.7, ignore_eos=True)
    with Engine((tiny_model(), None)) as engine:
        assert list(engine.generate(PROMPT, sampling_params=params).token_ids) == expected
        plain = params.model_copy(update={"repetition_penalty": 1.0})
        assert list(engine.generate(PROMPT, sampling_params=plain).token_ids) != expected


def test_a_seed_repeats_a_sample_whatever_else_runs(shared_a: dict[str, Path]):
    params = SamplingParams(max_tokens=12, temperature=1.5, top_p=0.9, seed=7, ignore_eos=True)
    with Engine((tiny_model(), None), shared_a) as engine:
        alone = engine.generate(PROMPT, sampling_params=params).token_ids
        mixed = [engine.submit(PROMPT[:n], adapter="plan", sampling_params=params) for n in (3, 9)]
        assert engine.generate(PROMPT, sampling_params=params).token_ids == alone
        other = params.model_copy(update={"seed": 8})
        assert engine.generate(PROMPT, sampling_params=other).token_ids != alone
        assert all(len(request.result().token_ids) == 12 for request in mixed)


def frequencies(params: SamplingParams, logits: torch.Tensor, draws: int) -> torch.Tensor:
    sampler = RequestSampler(params, torch.device("cpu"))
    counts = torch.zeros(logits.numel())
    for i in range(draws):
        counts[sample(logits[None], [sampler], [[0] * i])[0].token_id] += 1
    return counts / draws


def test_samples_follow_the_filtered_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    got = frequencies(SamplingParams(temperature=2.0, seed=1), logits, 4000)
    torch.testing.assert_close(got, (logits / 2).softmax(-1), atol=0.03, rtol=0)
    got = frequencies(SamplingParams(temperature=1.0, top_k=2, seed=1), logits, 2000)
    assert got[2:].sum() == 0
    torch.testing.assert_close(got[:2], logits[:2].softmax(-1), atol=0.04, rtol=0)
    got = frequencies(SamplingParams(temperature=1.0, top_p=0.7, seed=1), logits, 2000)
    assert got[2:].sum() == 0
    assert got[1] > 0


def test_min_p_keeps_a_share_of_the_likeliest():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    got = frequencies(SamplingParams(temperature=2.0, min_p=0.3, seed=1), logits, 2000)
    kept = (logits / 2).softmax(-1) >= 0.3 * (logits / 2).softmax(-1).max()
    assert kept.tolist() == [True, True, True, False, False]
    expected = torch.where(kept, (logits / 2).exp(), 0)
    torch.testing.assert_close(got, expected / expected.sum(), atol=0.04, rtol=0)


def choose(logits: list[float], tokens: list[int], prompt: int, **fields: Any) -> torch.Tensor:
    """The edited logits that the choice is made from."""
    params = SamplingParams(**fields)
    given = torch.tensor(logits)
    edit = LogitsEdit(params, torch.device("cpu"), prompt, ends=(1,))
    assert edit
    edited = edit(given, tokens)
    assert given.tolist() == logits
    return edited


def test_penalties_count_the_output_and_bias_comes_first():
    logits, tokens = [1.0, 1.0, -1.0, 4.0], [0, 0, 2, 3, 3]  # the first two are the prompt
    got = choose(logits, tokens, 2, presence_penalty=0.5, frequency_penalty=0.25)
    assert got.tolist() == [1.0, 1.0, -1.0 - 0.75, 4.0 - 1.0]
    got = choose(logits, tokens, 2, logit_bias={0: 3.0, 2: -5.0}, repetition_penalty=2.0)
    assert got.tolist() == [2.0, 1.0, -12.0, 2.0]
    got = choose(logits, tokens, 2, min_tokens=4)
    assert got.tolist() == [1.0, -math.inf, -1.0, 4.0]
    assert choose(logits, tokens, 2, min_tokens=3).tolist() == logits
    assert not LogitsEdit(SamplingParams(temperature=1.0), torch.device("cpu"), 2, (1,))


def test_penalties_and_bias_reach_the_answer():
    plain = SamplingParams(max_tokens=16, ignore_eos=True)
    with Engine((tiny_model(), None)) as engine:

        def answer(**fields: object) -> tuple[int, ...]:
            return engine.generate(PROMPT, plain.model_copy(update=fields)).token_ids

        assert len(set(answer())) < 16, "the test needs a model that repeats itself"
        assert len(set(answer(frequency_penalty=2.0))) > len(set(answer()))
        assert set(answer(logit_bias={17: 100.0})) == {17}
        assert answer()[0] not in answer(logit_bias={answer()[0]: -100.0})


def test_logprobs_are_those_of_the_raw_distribution():
    logits = torch.tensor([[0.0, 3.0, 1.0, -2.0]])
    params = SamplingParams(temperature=0.0, repetition_penalty=50.0, logprobs=2)
    chosen = sample(logits, [RequestSampler(params, torch.device("cpu"))], [[1]])[0]
    table = logits[0].log_softmax(-1)
    assert chosen.token_id == 2
    assert chosen.logprob is not None
    assert chosen.logprob.logprob == pytest.approx(table[2].item())
    assert chosen.logprob.top == pytest.approx({1: table[1].item(), 2: table[2].item()})


def test_generation_ends_at_the_end_token_unless_told_otherwise():
    with Engine((tiny_model(), None)) as engine:
        free = SamplingParams(max_tokens=200, temperature=2.0, seed=3, ignore_eos=True)
        tokens = engine.generate(PROMPT, sampling_params=free).token_ids
        assert 1 in tokens[:-1]
        ended = engine.generate(
            PROMPT, sampling_params=free.model_copy(update={"ignore_eos": False})
        )
        assert ended.token_ids == tokens[: tokens.index(1) + 1]
        assert ended.finish_reason == "stop"


def test_generation_ends_at_the_context_limit():
    with Engine((tiny_model(), None)) as engine:
        limit = engine.shape.max_positions
        done = engine.generate(
            prompt_of(limit - 3), sampling_params=SamplingParams(max_tokens=50, ignore_eos=True)
        )
        assert (len(done.token_ids), done.finish_reason) == (3, "length")

"""What a request may ask of its answers: several, bounds on their end, log-probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.models import SIZES, prompt_of, tiny_model
from tests.engine.tokenizer import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import GenerationFailedError

PROMPT = prompt_of(40)
PARAMS = SamplingParams(max_tokens=4, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=12, temperature=1.5, seed=7, ignore_eos=True)


def test_several_answers_compute_the_prompt_once(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a) as engine:
        seeds = [SAMPLED.model_copy(update={"seed": 7 + i}) for i in range(3)]
        expected = [a.token_ids for a in engine.generate([PROMPT] * 3, seeds, adapter="plan")]
        assert len(set(expected)) == 3
        three = SAMPLED.model_copy(update={"n": 3})
        done = engine.generate(PROMPT, three, adapter="plan", cache_salt="new")
        assert [answer.token_ids for answer in done.outputs] == expected
        assert [answer.index for answer in done.outputs] == [0, 1, 2]
        assert [answer.cached_tokens for answer in done.outputs] == [0, 32, 32]
        streamed: dict[int, list[int]] = {0: [], 1: [], 2: []}
        ends: list[int] = []
        for chunk in engine.generate(PROMPT, three, adapter="plan", stream=True):
            streamed[chunk.index] += chunk.token_ids
            ends += [chunk.index] if chunk.finish_reason else []
        assert [tuple(streamed[i]) for i in range(3)] == expected
        assert sorted(ends) == [0, 1, 2]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_cancelling_ends_all_answers(steps: int):
    with Engine((tiny_model(), None)) as engine:
        request = engine.submit(PROMPT, SAMPLED.model_copy(update={"n": 3}))
        for _ in range(steps):
            engine.step()
        request.cancel()
        assert {answer.finish_reason for answer in request.completion().outputs} == {"cancelled"}
        assert not engine.step()


def test_the_others_go_on_when_the_first_answer_fails(monkeypatch: pytest.MonkeyPatch):
    with Engine((tiny_model(), None)) as engine:
        request = engine.submit(PROMPT, SAMPLED.model_copy(update={"n": 3}))
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise RuntimeError("device lost")

            patch.setattr(engine._runner, "run", fail)
            engine.step()
        with pytest.raises(GenerationFailedError, match="device lost"):
            request.result()
        reasons = [answer.finish_reason for answer in request.completion().outputs]
        assert reasons == ["error", "length", "length"]


def test_an_interrupt_starts_the_other_answers_too(monkeypatch: pytest.MonkeyPatch):
    with Engine((tiny_model(), None)) as engine:
        three = SAMPLED.model_copy(update={"n": 3})
        expected = [answer.token_ids for answer in engine.generate(PROMPT, three).outputs]
        request = engine.submit(PROMPT, three)
        with monkeypatch.context() as patch:

            def interrupt(*_: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(engine._runner, "run", interrupt)
            with pytest.raises(KeyboardInterrupt):
                engine.step()
        assert [answer.token_ids for answer in request.result().outputs] == expected


def test_min_tokens_holds_off_every_end():
    free = SamplingParams(max_tokens=200, temperature=2.0, seed=3)
    with Engine((tiny_model(), None)) as engine:
        short = engine.generate(PROMPT, free)
        assert short.finish_reason == "stop"
        least = len(short.token_ids) + 5
        longer = engine.generate(PROMPT, free.model_copy(update={"min_tokens": least}))
        assert len(longer.token_ids) > least
        assert 1 not in longer.token_ids[:least]
        third = longer.token_ids[2]
        ended = engine.generate(PROMPT, free.model_copy(update={"stop_token_ids": (third,)}))
        assert (ended.token_ids[-1], ended.finish_reason) == (third, "stop")
        assert len(ended.token_ids) <= 3
        both = {"stop_token_ids": (third,), "min_tokens": least}
        held = engine.generate(PROMPT, free.model_copy(update=both))
        assert not {1, third} & set(held.token_ids[:least])


def test_stop_texts_count_after_min_tokens():
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**SIZES, "vocab_size": 260})
    with Engine((AutoModelForCausalLM.from_config(config), byte_tokenizer())) as engine:
        free = SamplingParams(max_tokens=40, temperature=1.5, seed=1, ignore_eos=True)
        text = engine.generate(PROMPT, free).text
        stop = {"stop": (text[6],)}
        first = text.index(text[6])
        assert engine.generate(PROMPT, free.model_copy(update=stop)).text == text[:first]
        held = engine.generate(PROMPT, free.model_copy(update={**stop, "min_tokens": 10}))
        assert len(held.token_ids) > 10
        assert held.text.startswith(text[: first + 1])


def test_unknown_token_ids_are_refused():
    with Engine((tiny_model(), None)) as engine:
        for fields in ({"stop_token_ids": [96]}, {"logit_bias": {96: 1.0}}):
            with pytest.raises(ValueError, match=f"{next(iter(fields))}: .* between 0 and 95"):
                engine.submit(PROMPT, SamplingParams.model_validate(fields))


def reference(model: PreTrainedModel, prompt: list[int]) -> torch.Tensor:
    """`[prompt, vocab]` log-probabilities by transformers."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([prompt])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("chunk", [512, 7, 1])
def test_prompt_logprobs_are_those_of_transformers(tiny: PreTrainedModel, chunk: int):
    asking = PARAMS.model_copy(update={"prompt_logprobs": 2, "logprobs": 0})
    table = reference(tiny, PROMPT)
    with Engine((tiny_model(), None), max_num_batched_tokens=chunk) as engine:
        plain = engine.generate(PROMPT, PARAMS)
        assert plain.prompt_logprobs == ()
        other = engine.submit(prompt_of(20, 3), SAMPLED)
        done = engine.submit(PROMPT, asking).result()  # though its prompt is cached
        assert other.result().finish_reason == "length"
        assert (done.cached_tokens, plain.cached_tokens) == (0, 0)
        assert engine.generate(PROMPT, PARAMS).cached_tokens == 32
    assert done.token_ids == plain.token_ids
    assert len(done.logprobs) == 4
    assert (len(done.prompt_logprobs), done.prompt_logprobs[0]) == (40, None)
    for place, entry in enumerate(done.prompt_logprobs[1:]):
        assert entry is not None
        assert entry.token_id == PROMPT[place + 1]
        assert entry.logprob == pytest.approx(table[place, entry.token_id].item(), abs=1e-4)
        values, ids = table[place].topk(2)
        assert entry.top == pytest.approx(
            dict(zip(ids.tolist(), values.tolist(), strict=True)), abs=1e-4
        )


def test_prompt_logprobs_that_are_no_numbers_fail_their_request_alone(
    monkeypatch: pytest.MonkeyPatch,
):
    with Engine((tiny_model(), None)) as engine:
        asking = SAMPLED.model_copy(update={"prompt_logprobs": 0})
        alone = engine.generate(PROMPT, SAMPLED).token_ids
        one, bystander = engine.submit(PROMPT[:9], asking), engine.submit(PROMPT, SAMPLED)
        whole = engine._runner.run
        with monkeypatch.context() as patch:

            def poisoned(step: Any) -> torch.Tensor:
                logits = whole(step).clone()
                logits[3] = torch.nan  # of the prompt that asks
                return logits

            patch.setattr(engine._runner, "run", poisoned)
            engine.step()
        with pytest.raises(GenerationFailedError, match="NaN or Inf"):
            one.result()
        assert bystander.result().token_ids == alone

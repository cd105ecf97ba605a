"""`generate` and `chat` take one prompt or many, and arguments under their former names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.engine.models import SIZES, prompt_of
from tests.engine.tokenizer import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from lragent.engine import Engine, SamplingParams

PARAMS = SamplingParams(max_tokens=6, ignore_eos=True)
PROMPTS = [prompt_of(20), prompt_of(20, 1)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**SIZES, "vocab_size": 260})
    with Engine((AutoModelForCausalLM.from_config(config), byte_tokenizer())) as engine:
        yield engine


@pytest.mark.parametrize(
    "prompts",
    [
        PROMPTS,
        tuple(map(tuple, PROMPTS)),
        torch.tensor(PROMPTS),
        torch.tensor(PROMPTS).numpy(),
        [torch.tensor(p) for p in PROMPTS],
    ],
    ids=["lists", "tuples", "2-d tensor", "2-d array", "list of tensors"],
)
def test_many_prompts_of_token_ids(engine: Engine, prompts: Any):
    expected = [engine.generate(p, PARAMS).token_ids for p in PROMPTS]
    assert [answer.token_ids for answer in engine.generate(prompts, PARAMS)] == expected


def test_many_texts_and_conversations_run_in_one_batch(engine: Engine):
    texts = ["one", "another"]
    expected = [engine.generate(text, PARAMS).text for text in texts]
    steps = engine.stats().steps
    assert [answer.text for answer in engine.generate(texts, PARAMS)] == expected
    assert engine.stats().steps - steps == PARAMS.max_tokens
    talks = [[{"role": "user", "content": text}] for text in texts]
    expected = [engine.chat(talk, PARAMS).text for talk in talks]
    assert [answer.text for answer in engine.chat(talks, PARAMS)] == expected
    assert [answer.text for answer in asyncio.run(engine.achat(talks, PARAMS))] == expected
    assert asyncio.run(engine.achat(talks[0], PARAMS)).text == expected[0]


def test_each_prompt_may_have_its_own_params(engine: Engine):
    each = [PARAMS.model_copy(update={"max_tokens": n}) for n in (2, 5)]
    assert [len(a.token_ids) for a in engine.generate(PROMPTS, each)] == [2, 5]
    with pytest.raises(ValueError, match="2 prompts and 1 sampling_params"):
        engine.generate(PROMPTS, each[:1])
    with pytest.raises(TypeError, match="needs a list of prompts"):
        engine.generate(PROMPTS[0], each)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_of_many_prompts_a_bad_one_is_refused_with_all_and_a_failing_one_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ValueError, match="between 0 and 259"):
        engine.generate([PROMPTS[0], [1, 260]], PARAMS)
    expected = engine.generate(PROMPTS[0], PARAMS).token_ids
    whole = engine._runner.run

    def poisoned(step: Any) -> torch.Tensor:
        logits = whole(step).clone()
        if len(logits) == 2:
            logits[1, 7] = torch.nan
        return logits

    monkeypatch.setattr(engine._runner, "run", poisoned)
    good, bad = engine.generate(PROMPTS, PARAMS)
    assert good.token_ids == expected
    assert (bad.finish_reason, "NaN" in str(bad.error)) == ("error", True)
    engine.check_integrity()


def test_what_is_no_batch(engine: Engine):
    with pytest.raises(ValueError, match="empty"):
        engine.generate([], PARAMS)
    with pytest.raises(TypeError, match="stream=True is for one prompt"):
        engine.generate(PROMPTS, PARAMS, stream=True)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_former_names_are_taken_with_a_warning(engine: Engine):
    expected = engine.generate(PROMPTS[0], PARAMS).token_ids
    old: dict[str, Any] = {"params": PARAMS}
    with pytest.warns(DeprecationWarning, match="params= is called sampling_params= now"):
        assert engine.generate(PROMPTS[0], **old).token_ids == expected
    with pytest.warns(DeprecationWarning, match="sampling_params"):
        assert engine.submit(PROMPTS[0], **old).result().token_ids == expected
    with pytest.raises(TypeError, match="former name"):
        engine.submit(PROMPTS[0], sampling_params=PARAMS, **old)

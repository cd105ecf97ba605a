"""Answers of a given form, whatever the model would rather say."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.engine.models import SIZES, prompt_of, tiny_model
from tests.engine.tokenizer import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import GenerationFailedError

PROMPT = prompt_of(20)
SCHEMA = {
    "type": "object",
    "properties": {"step": {"enum": [1, 22]}, "done": {"type": "boolean"}},
    "required": ["step", "done"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**SIZES, "vocab_size": 260})
    with Engine((AutoModelForCausalLM.from_config(config), byte_tokenizer())) as engine:
        yield engine


def params(seed: int | None = None, **form: Any) -> SamplingParams:
    sampled = {} if seed is None else {"temperature": 1.5, "seed": seed}
    return SamplingParams.model_validate({"max_tokens": 100, "structured_outputs": form, **sampled})


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_the_answer_has_the_form(engine: Engine, seed: int | None):
    free = SamplingParams(max_tokens=20, ignore_eos=True)
    expected = engine.generate(PROMPT, free).token_ids
    bystander = engine.submit(PROMPT, free)
    one, two, three, four = engine.generate(
        [PROMPT] * 4,
        [
            params(seed, choice=("forward", "back")),
            params(seed, regex=r"[a-c]{5}-[0-9]+\."),
            params(seed, json=SCHEMA),
            params(seed, grammar='start: "a" ("b" | "c")~4'),
        ],
    )
    assert one.text in ("forward", "back")
    assert two.finish_reason == "length" or re.fullmatch(r"[a-c]{5}-[0-9]+\.", two.text)
    assert re.match(r"[a-c]{5}-[0-9]+", two.text)
    answer = json.loads(three.text)
    assert answer["step"] in (1, 22)
    assert isinstance(answer["done"], bool)
    assert re.fullmatch("a[bc]{4}", four.text)
    assert [answer.finish_reason for answer in (one, three, four)] == ["stop"] * 3
    assert bystander.result().token_ids == expected


def test_each_of_several_answers_has_the_form(engine: Engine):
    three = params(3, regex="[a-z]{6}").model_copy(update={"n": 3})
    texts = [answer.text for answer in engine.generate(PROMPT, three).outputs]
    assert all(re.fullmatch("[a-z]{6}", text) for text in texts)
    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"regex": "("}, "cannot be followed: .*regex"),
        ({"grammar": "nope"}, "cannot be followed"),
        ({"json": "{"}, "cannot be followed"),
        ({"json": {"type": "blurb"}}, "cannot be followed: .*blurb"),
        ({}, "give one of json"),
        ({"regex": "a", "choice": ["a"]}, "give one of json"),
        ({"choice": []}, "choice"),
        ({"rejex": "a"}, "rejex"),
    ],
    ids=str,
)
def test_forms_that_cannot_be_followed(engine: Engine, form: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        engine.submit(PROMPT, params(**form))


def test_what_does_not_go_with_a_form(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    for other in ({"min_tokens": 3}, {"ignore_eos": True}):
        with pytest.raises(ValueError, match="no min_tokens then"):
            SamplingParams.model_validate({"structured_outputs": {"regex": "a"}, **other})
    with (
        Engine((tiny_model(), None)) as bare,
        pytest.raises(ValueError, match="need a fast tokenizer"),
    ):
        bare.submit(PROMPT, params(regex="a"))
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ValueError, match=r"pip install 'lragent\[structured\]'"):
        engine.submit(PROMPT, params(regex="a"))


def test_a_form_that_fails_on_the_way_fails_its_request_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    free = SamplingParams(max_tokens=9, ignore_eos=True)
    expected = engine.generate(PROMPT, free).token_ids
    bystander = engine.submit(PROMPT, free)
    request = engine.submit(PROMPT, params(regex="[a-z]{9}"))
    engine.step()
    request._state.tokens[-1] = 5  # a token that the form forbids
    with pytest.raises(GenerationFailedError, match="structured_outputs"):
        request.result()
    assert bystander.result().token_ids == expected

"""Answers as OpenAI's own client reads them, strictly by its types."""

from __future__ import annotations

import json
from typing import Any, Literal, cast

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from tests.server.serving import Served

from lragent import SamplingParams

LONG = "All agents read this text, which takes some pages of the cache. "
MESSAGES = cast(Any, [{"role": "system", "content": LONG}, {"role": "user", "content": "Why?"}])


def checked(answer: BaseModel) -> Any:
    """The answer, if all of it is as its type says; the client itself checks nothing."""
    return type(answer).model_validate(answer.model_dump(exclude_unset=True), strict=True)


def alike(one: Any, other: Any) -> None:
    """Assert that two answers are equal, but for the last bits of sums in another order."""
    match one:
        case float():
            assert one == pytest.approx(other, rel=1e-5)
        case BaseModel():
            alike(one.model_dump(), other.model_dump())
        case dict():
            assert one.keys() == other.keys()
            alike(list(one.values()), list(other.values()))
        case list():
            assert len(one) == len(other)
            for mine, its in zip(one, other, strict=True):
                alike(mine, its)
        case _:
            assert one == other


def test_chat_is_what_the_engine_says(served: Served, client: openai.OpenAI):
    answer = checked(
        client.chat.completions.create(
            model="plan", messages=MESSAGES, temperature=0, max_completion_tokens=12
        )
    )
    assert isinstance(answer, ChatCompletion)
    expected = served.engine.chat(MESSAGES, SamplingParams(max_tokens=12), adapter="plan")
    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == (expected.text, "length")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == 12


def test_a_hand_over_is_seen_in_the_usage(client: openai.OpenAI):
    messages = cast(Any, [{"role": "user", "content": "Handed over. " + LONG}])
    cached = []
    for model in ("plan", "act"):
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=2)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == 0
    assert cached[1] >= answer.usage.prompt_tokens - 16
    salted = client.chat.completions.create(
        model="act", messages=messages, max_tokens=2, extra_body={"cache_salt": "other tenant"}
    )
    assert salted.usage is not None
    assert salted.usage.prompt_tokens_details is not None
    assert salted.usage.prompt_tokens_details.cached_tokens == 0


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_comes_to_the_same_as_the_whole(client: openai.OpenAI, n: int):
    wanted: dict[str, Any] = {
        "model": "act", "messages": MESSAGES, "temperature": 0.7, "seed": 5, "n": n,
        "max_tokens": 20, "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = checked(client.chat.completions.create(**wanted))
    texts, usage = [""] * n, None
    logprobs: list[list[Any]] = [[] for _ in range(n)]
    reasons: list[str | None] = [None] * n
    with client.chat.completions.create(
        **wanted, stream=True, stream_options={"include_usage": True}
    ) as stream:
        for event in map(checked, stream):
            assert isinstance(event, ChatCompletionChunk)
            assert usage is None, "the usage comes last"
            usage = event.usage
            for choice in event.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.logprobs is not None:
                    logprobs[choice.index] += choice.logprobs.content or []
                reasons[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    for streamed, choice in zip(logprobs, whole.choices, strict=True):
        alike(streamed, choice.logprobs.content)
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert all(len(each) == 20 for each in logprobs)
    assert len(logprobs[0][0].top_logprobs) == 2


def test_completions_of_several_prompts(served: Served, client: openai.OpenAI):
    prompts = ["one two", "three"]
    wanted: dict[str, Any] = {
        "model": "base", "prompt": prompts, "temperature": 0, "max_tokens": 6, "logprobs": 1
    }  # fmt: skip
    whole = checked(client.completions.create(**wanted))
    assert isinstance(whole, Completion)
    assert whole.usage is not None
    expected = [served.engine.generate(p, SamplingParams(max_tokens=6)) for p in prompts]
    assert [choice.text for choice in whole.choices] == [each.text for each in expected]
    assert whole.usage.completion_tokens == 12
    for choice in whole.model_dump()["choices"]:
        logprobs = choice["logprobs"]
        assert logprobs["text_offset"][0] == 0
        assert {len(each) for each in logprobs.values()} == {6}
    texts = ["", ""]
    reasons = {}
    for event in client.completions.create(**wanted, stream=True):
        for choice in event.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
            choice.finish_reason = "stop"  # OpenAI's type has no null, which its streams have
        checked(event)
    assert reasons == {0: "length", 1: "length"}
    assert texts == [each.text for each in expected]


def with_echo(client: openai.OpenAI, **wanted: Any) -> tuple[Any, list[Any]]:
    """The answer and its choices: text, tokens' log-probabilities, likeliest tokens, offsets."""
    whole = client.completions.create(model="plan", temperature=0, echo=True, **wanted)
    choices = []
    for choice in whole.choices:
        logprobs = choice.logprobs
        if logprobs is None:
            choices.append(choice.text)
            continue
        parts = (logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset)
        choices.append((choice.text, *map(list, cast(Any, parts))))
        for each in cast(Any, parts[:2]):  # OpenAI's type has no null, which its answers have
            assert each.pop(0) is None
    return checked(whole), choices


@pytest.mark.parametrize("as_ids", [False, True], ids=["text", "ids"])
def test_an_echo_is_the_prompt_and_then_the_answer(
    served: Served, client: openai.OpenAI, as_ids: bool
):
    texts = ["one two", "three"]
    ids = cast(Any, served.engine.tokenizer)(texts)["input_ids"]
    prompts = ids if as_ids else texts
    wanted: dict[str, Any] = {"prompt": prompts, "max_tokens": 6, "n": 2, "logprobs": 2}
    whole, choices = with_echo(client, **wanted)
    asked = SamplingParams(max_tokens=6, logprobs=2, prompt_logprobs=2)
    for place, (text, logprobs, top, offsets) in enumerate(choices):
        expected = served.engine.generate(ids[place // 2], asked, adapter="plan")
        tokens = (*expected.prompt_logprobs, *expected.logprobs)
        assert text == texts[place // 2] + expected.text
        assert top[0] is None
        assert all(top[1:])
        alike(logprobs, [each and each.logprob for each in tokens])
        assert offsets == list(range(len(tokens)))  # each token is one character
    assert whole.usage.completion_tokens == 24
    plain, without = with_echo(client, **{**wanted, "logprobs": None})
    assert without == [choice[0] for choice in choices]
    assert all(choice.logprobs is None for choice in plain.choices)


def test_a_prompt_alone(client: openai.OpenAI):
    wanted: dict[str, Any] = {"prompt": ["one two", "three"], "logprobs": 1}
    whole, choices = with_echo(client, **wanted, max_tokens=0)
    _, longer = with_echo(client, **wanted, max_tokens=3)
    assert [choice[0] for choice in choices] == wanted["prompt"]
    assert {choice.finish_reason for choice in whole.choices} == {"length"}
    for alone, more in zip(choices, longer, strict=True):
        alike(alone[1], more[1][: len(alone[0])])


@pytest.mark.parametrize("max_tokens", [0, 12])
def test_an_echo_comes_as_a_stream(client: openai.OpenAI, max_tokens: int):
    wanted: dict[str, Any] = {
        "model": "act", "prompt": ["one two", "three"], "max_tokens": max_tokens, "n": 2,
        "seed": 3, "stop": ["no such text"], "echo": True, "logprobs": 0,
    }  # fmt: skip
    whole = client.completions.create(**wanted).model_dump()["choices"]
    streamed = [{"text": "", "logprobs": {}, "finish_reason": None} for _ in whole]
    for event in client.completions.create(**wanted, stream=True):
        [choice] = event.model_dump()["choices"]
        so_far = streamed[choice["index"]]
        so_far["text"] += choice["text"]
        so_far["finish_reason"] = choice["finish_reason"]
        for name, values in choice["logprobs"].items():
            so_far["logprobs"].setdefault(name, []).extend(values)
    alike(streamed, [{name: choice[name] for name in streamed[0]} for choice in whole])


def test_an_answer_is_a_message_of_the_next_request(client: openai.OpenAI):
    answer = client.chat.completions.create(model="act", messages=MESSAGES, max_tokens=3)
    message = answer.choices[0].message
    for said in (message, message.model_dump(), {**message.model_dump(), "annotations": []}):
        more = [*MESSAGES, said, {"role": "user", "content": "And then?"}]
        assert client.chat.completions.create(model="act", messages=more, max_tokens=3).choices


def test_token_ids_are_prompts(served: Served, client: openai.OpenAI):
    ids = [5, 6, 7, 8]
    expected = served.engine.generate(ids, SamplingParams(max_tokens=4)).text
    for prompt in (ids, [ids]):
        answer = client.completions.create(model="base", prompt=prompt, temperature=0, max_tokens=4)
        assert answer.choices[0].text == expected


class Step(BaseModel):
    """What an answer may be made to look like."""

    step: Literal[1, 22]
    done: bool


def test_answers_of_a_form(client: openai.OpenAI):
    wanted: dict[str, Any] = {"model": "act", "messages": MESSAGES, "seed": 2, "max_tokens": 400}
    # the older place of parse(), which all versions of the client have
    made = client.beta.chat.completions.parse(**wanted, response_format=Step)
    parsed = made.choices[0].message
    assert isinstance(parsed.parsed, Step)
    answer = client.chat.completions.create(**wanted, response_format={"type": "json_object"})
    [choice] = checked(answer).choices
    assert choice.message.content.lstrip()[0] == "{"
    if choice.finish_reason == "stop":
        json.loads(choice.message.content)
    events = client.completions.create(
        model="act", prompt="Why?", stream=True,
        extra_body={"structured_outputs": {"choice": ["back", "forward"]}},
    )  # fmt: skip
    assert "".join(event.choices[0].text for event in events) in ("back", "forward")


def test_stop_texts_and_parts_of_text(served: Served, client: openai.OpenAI):
    parts = cast(Any, [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}])
    free = served.engine.chat([{"role": "user", "content": "Why?"}], SamplingParams(max_tokens=30))
    stop = free.text[10:12]
    answer = client.chat.completions.create(
        model="base", messages=parts, temperature=0, max_tokens=30, stop=[stop]
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == free.text[: free.text.index(stop)]


@pytest.mark.parametrize("stream", [False, True])
def test_what_stopped_an_answer_is_said(served: Served, client: openai.OpenAI, stream: bool):
    wanted: dict[str, Any] = {"model": "base", "prompt": "Why?", "temperature": 0, "stream": stream}

    def reason(**stop: Any) -> int | str | None:
        made = client.completions.create(**wanted, max_tokens=30, extra_body=stop)
        [*_, last] = made if stream else [made]
        choice = last.choices[0].model_dump()
        assert choice["finish_reason"] == ("stop" if stop else "length")
        return choice["stop_reason"]

    free = served.engine.generate("Why?", SamplingParams(max_tokens=30))
    assert reason() is None
    assert reason(stop=["never", free.text[10:12]]) == free.text[10:12]
    assert reason(stop_token_ids=[free.token_ids[20]]) == free.token_ids[20]


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_a_request(served: Served, client: openai.OpenAI, stream: bool):
    with pytest.raises(openai.APIError, match="longer than its deadline") as late:
        list(
            client.completions.create(
                model="plan", prompt="On and on", max_tokens=1900, stream=stream,
                extra_body={"deadline": 0.1, "ignore_eos": True},
            )
        )  # fmt: skip
    assert late.value.code == "deadline"
    if not stream:
        assert isinstance(late.value, openai.InternalServerError)
        assert late.value.status_code == 504
    served.idle()


def test_a_chat_without_a_limit_ends_with_the_context(served: Served, client: openai.OpenAI):
    messages = cast(Any, [{"role": "user", "content": "x" * 1990}])
    answer = client.chat.completions.create(model="base", messages=messages)
    assert answer.usage is not None
    assert answer.usage.total_tokens <= served.engine.shape.max_positions

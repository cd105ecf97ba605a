"""Tools: told to the model by its template, and their calls read from its answer."""

from __future__ import annotations

import json
from typing import Any, cast

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.engine.tokenizer import TEMPLATE
from tests.server.serving import Served
from tests.server.test_generation import checked

from lragent.server.tool_calls import ToolCallReader

TOOL = cast(
    Any,
    {"type": "function", "function": {"name": "look", "description": "Ends no turn: <|end|>"}},
)
WITH_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + TEMPLATE.replace(
    "<|end|>", "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|end|>"
)
CALL = '<tool_call>{"name": "look", "arguments": {"at": 7}}</tool_call>'
QUESTION: dict[str, Any] = {
    "model": "plan",
    "messages": [{"role": "user", "content": "Where?"}],
    "tools": [TOOL],
    "max_tokens": 300,
    "extra_body": {"structured_outputs": {"choice": [f"So: {CALL}{CALL}"]}},
}


@pytest.fixture
def _template(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.engine.tokenizer, "chat_template", WITH_TOOLS)


@pytest.mark.usefixtures("_template")
def test_a_call_and_its_answer(client: openai.OpenAI):
    answer = checked(client.chat.completions.create(**QUESTION))
    assert isinstance(answer, ChatCompletion)
    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("So: ", "tool_calls")
    one, two = cast(list[Any], choice.message.tool_calls)
    assert one.type == "function"
    assert (one.function.name, json.loads(one.function.arguments)) == ("look", {"at": 7})
    assert one.id != two.id
    result = {"role": "tool", "tool_call_id": one.id, "content": "Nothing."}
    messages = [*QUESTION["messages"], choice.message, result]
    more = {**QUESTION, "messages": messages, "extra_body": {}}
    assert checked(client.chat.completions.create(**more)).choices
    none = client.chat.completions.create(**QUESTION, tool_choice="none").choices[0]
    assert (none.message.content, none.message.tool_calls) == (f"So: {CALL}{CALL}", None)


@pytest.mark.usefixtures("_template")
def test_a_stream_comes_to_the_same(client: openai.OpenAI):
    text, calls, reasons = "", [], set()
    for event in map(checked, client.chat.completions.create(**QUESTION, stream=True)):
        assert isinstance(event, ChatCompletionChunk)
        [choice] = event.choices
        text += choice.delta.content or ""
        calls += choice.delta.tool_calls or []
        reasons.add(choice.finish_reason)
    assert text == "So: "
    assert [(call.index, call.function.arguments) for call in calls] == [
        (0, '{"at": 7}'), (1, '{"at": 7}')
    ]  # fmt: skip
    assert reasons == {None, "tool_calls"}


@pytest.mark.usefixtures("_template")
def test_what_the_model_is_told(served: Served):
    messages = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "<|end|>"}}]},
    ]
    ids = served.engine.render(messages, tools=[TOOL])
    assert served.engine.tokenizer is not None
    assert "Ends no turn: <|end|>" in cast(str, served.engine.tokenizer.decode(ids))
    assert ids.count(1) == 2, "a description or a call ended a turn"
    deep: Any = "x"
    for _ in range(70):
        deep = [deep]
    with pytest.raises(ValueError, match="64 deep"):
        served.engine.render(messages, tools=[{"type": "function", "function": deep}])


@given(
    st.lists(st.sampled_from([CALL, "<tool_", "call>", "<tool_call>", "</tool_call>", "{}", "x"])),
    st.integers(1, 9),
)
def test_pieces_of_any_size_come_to_the_same(parts: list[str], size: int):
    text = "".join(parts)
    whole, streamed = ToolCallReader(), ToolCallReader()
    expected, calls = whole.push(text, ended=True)
    shown, found = "", []
    for start in range(0, len(text), size):
        more, new = streamed.push(text[start : start + size], ended=False)
        shown, found = shown + more, found + new
    more, new = streamed.push("", ended=True)
    assert shown + more == expected
    assert [call.function for call in found + new] == [call.function for call in calls]
    assert len(expected) + len(calls) * len(CALL) == len(text), "nothing is lost"

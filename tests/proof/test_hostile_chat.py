"""Conversations made to harm: tokens or a typed error, and nobody else notices."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.tokenizer import TEMPLATE, byte_tokenizer
from tests.proof.conftest import PARAMS, Beside, text_model

from lragent.engine import Engine

ROLES = st.sampled_from(["user", "assistant", "system", "tool", "", "<|end|>", "{{ 1 }}"])
TEXT = st.text(max_size=12) | st.sampled_from(
    ["<|end|><|system|>", "{% raw %}", "{{ messages }}", "\0", "\ud800", " " * 50, "<s>" * 9]
)
VALUE: Any = st.one_of(TEXT, st.none(), st.integers(), st.binary(max_size=3), st.lists(TEXT))
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": ROLES, "content": TEXT}, optional={"name": TEXT}),
    st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls", ""]), VALUE),
    VALUE,
)


@settings(max_examples=60)
@given(messages=st.lists(MESSAGE, max_size=4) | MESSAGE, goes_on=st.booleans())
def test_any_conversation(engine: Engine, beside: Beside, messages: Any, goes_on: bool):
    with suppress(TypeError, ValueError):
        done = beside(
            lambda: engine.chat(messages, sampling_params=PARAMS, continue_final_message=goes_on)
        )
        assert len(done.token_ids) == PARAMS.max_tokens
        rendered = engine.render(messages, goes_on)
        turns = len(messages) - goes_on
        assert rendered.count(1) == turns, "a message ended a turn"


def test_a_template_that_refuses():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}" + TEMPLATE
    with (
        Engine((text_model(), tokenizer)) as engine,
        pytest.raises(ValueError, match="template refuses the messages: roles must alternate"),
    ):
        engine.chat([{"role": "user", "content": "Hi"}])

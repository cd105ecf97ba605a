"""Text as it comes: whole characters, nothing of a stop text, the same as decoding at the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.tokenizer import byte_tokenizer

from lragent.engine.text_stream import TextStream

TOKENIZER = byte_tokenizer()


def stream(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    out, streamer = [], TextStream(TOKENIZER, stop)
    for token in TOKENIZER(text, add_special_tokens=False)["input_ids"]:
        piece, stopped = streamer.push(token)
        out.append(piece)
        if stopped:
            return [*out, streamer.flush()], True
    return [*out, streamer.flush()], False


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_pieces_are_the_text(text: str):
    pieces, stopped = stream(text)
    assert "".join(pieces) == text
    assert not stopped


def test_characters_of_several_bytes_come_whole():
    pieces, _ = stream("aé€😀b")
    assert [piece for piece in pieces if piece] == ["a", "é", "€", "😀", "b"]


@given(
    st.text("ab]\n", max_size=30), st.lists(st.text("ab]\n", min_size=1, max_size=3), min_size=1)
)
def test_text_ends_before_the_first_stop_text(text: str, stops: list[str]):
    pieces, stopped = stream(text, tuple(stops))
    # the earliest moment at which some stop text is complete decides, then where it begins
    for end in range(len(text) + 1):
        found = [text[:end].find(s) for s in stops if s in text[:end]]
        if found:
            assert "".join(pieces) == text[: min(found)]
            assert stopped
            return
    assert "".join(pieces) == text
    assert not stopped


def test_what_may_become_a_stop_text_is_held_back():
    streamer = TextStream(TOKENIZER, ("STOP",))
    shown = [streamer.push(t)[0] for t in TOKENIZER("xSTOx", add_special_tokens=False)["input_ids"]]
    assert shown == ["x", "", "", "", "STOx"]


def test_incomplete_bytes_at_the_end_show_as_replacement_characters():
    streamer = TextStream(TOKENIZER)
    first, *_ = TOKENIZER("é", add_special_tokens=False)["input_ids"]
    assert streamer.push(first) == ("", False)
    assert streamer.flush() == "\ufffd"


def test_without_a_tokenizer_there_is_no_text():
    streamer = TextStream(None)
    assert streamer.push(5) == ("", False)
    assert streamer.flush() == ""


@pytest.mark.parametrize("stop", [("b",), ("bc", "b")])
def test_special_tokens_are_not_text(stop: tuple[str, ...]):
    streamer = TextStream(TOKENIZER, stop)
    assert streamer.push(1) == ("", False)

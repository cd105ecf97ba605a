from __future__ import annotations

import pytest

from lragent.agents.tools.passages import clip, split_passages, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One is here. Two is there!  Three?", ["One is here.", "Two is there!", "Three?"]),
        ("J. K. Rowling met Dr. No in St. Ives. He left.", None),
        ("The U.S. Senate met. Ève spoke.", ["The U.S. Senate met.", "Ève spoke."]),
        ('He said "Go." Then he went.', ['He said "Go."', "Then he went."]),
        ("It cost 3.50 pounds. 20 came.", ["It cost 3.50 pounds.", "20 came."]),
        ("no end. and so on", ["no end. and so on"]),
        ("  ", []),
    ],
)
def test_sentences(text: str, sentences: list[str] | None):
    expected = sentences or (["J. K. Rowling met Dr. No in St. Ives.", "He left."])
    assert split_sentences(text) == (expected if text.strip() else [])


def test_passages_hold_whole_sentences_up_to_the_limit():
    text = "Alba is a town. It is old. The river is long."
    assert split_passages(text, limit=30) == ["Alba is a town. It is old.", "The river is long."]
    assert split_passages(text, limit=100) == [text]


def test_a_long_sentence_is_clipped_at_a_word():
    text = "alpha beta, gamma delta"
    assert clip(text, 100) == text
    assert clip(text, 15) == "alpha beta ..."
    assert all(len(clip(text, n)) <= n for n in range(10, 30))
    assert split_passages("Short one. " + "Word " * 50, limit=40)[0] == "Short one."

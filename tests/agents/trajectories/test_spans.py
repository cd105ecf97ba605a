from __future__ import annotations

import pytest

from lragent.agents.trajectories.spans import contains, extract, mention, overlap


@pytest.mark.parametrize(
    ("title", "text", "found"),
    [
        ("Alba (town)", "Who built Alba?", "Alba"),
        ("Alba (town)", "Who built the Alba (town)?", "Alba (town)"),
        ("Hillen, Baltimore", "Where is Hillen?", "Hillen"),
        ("The Scoop", "shown at the Scoop in June", "the Scoop"),
        ("Alba", "Albania", None),
        ("Her", "tell her", None),
        ("C++ (language)", "Is C++ old?", "C++"),
    ],
)
def test_mention(title: str, text: str, found: str | None):
    assert mention(title, text) == found


def test_contains_whole_words():
    assert contains("He was born in Norvick.", "norvick")
    assert not contains("Norvicks", "Norvick")


def test_overlap_counts_content_words():
    assert overlap("The old bridge of Alba", "Which is the bridge in Alba?") == 2


LONG = (
    "The bridge, which crosses the river near the old town hall and the market, was designed by "
    "the engineer Marta Quill, who was born in the town of Norvick and died in Brellin in 1921."
)


@pytest.mark.parametrize("part", ["The bridge", "Marta Quill", "Norvick", "1921", None])
def test_extract_keeps_the_part_and_copies_words_in_order(part: str | None):
    text = extract(LONG, part, limit=12)
    assert part is None or part in text
    assert len(text.split()) <= 21
    assert text in LONG


def test_extract_drops_parentheses_unless_they_hold_the_part():
    sentence = "Ada Lorne (born 1841 in Kelm) was a captain."
    assert extract(sentence) == "Ada Lorne was a captain"
    assert extract(sentence, "captain") == "Ada Lorne was a captain"
    assert extract(sentence, "1841") == "Ada Lorne (born 1841 in Kelm) was a captain"
    assert extract(sentence, "1841", limit=4).count("(") == extract(sentence, "1841").count(")")


def test_extract_ends_with_a_word_that_says_something():
    assert extract("Alba is a town of the kingdom", limit=5) == "Alba is a town"

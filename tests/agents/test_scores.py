from __future__ import annotations

import pytest

from lragent.agents import exact_match, f1_score, normalize_answer


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("an Apple, a day", "apple day"),
        ("9,200", "9200"),
        ("Theodore", "theodore"),
        ("", ""),
    ],
)
def test_normalisation(answer: str, normal: str):
    assert normalize_answer(answer) == normal


def test_exact_match_ignores_case_articles_and_punctuation():
    assert exact_match("the Ilden Bridge.", "Ilden bridge")
    assert not exact_match("Ilden", "Ilden Bridge")


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("Ilden Bridge", "the Ilden Bridge", 1.0),
        ("Ilden", "Ilden Bridge", 2 / 3),
        ("Gannet", "Ilden", 0.0),
        ("yes it is", "yes", 0.0),
        ("yes", "Yes", 1.0),
        ("", "Ilden", 0.0),
        ("a a b", "a b b", 1 * 2 * (1 / 2) * 1 / (1 / 2 + 1)),
    ],
)
def test_f1(prediction: str, gold: str, score: float):
    assert f1_score(prediction, gold) == pytest.approx(score)

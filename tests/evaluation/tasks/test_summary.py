from __future__ import annotations

import math

import pytest

from lragent.agents import Status
from lragent.evaluation import EvaluationError
from lragent.evaluation.tasks import Answer, compare
from lragent.evaluation.tasks.summary import mcnemar


def answer(key: int, exact: bool, status: Status = Status.ANSWERED) -> Answer:
    return Answer(
        key=str(key),
        status=status,
        answer="x" if status is Status.ANSWERED else None,
        exact=exact,
        f1=1.0 if exact else 0.25,
        steps=4,
        calls=12,
        tool_errors=1,
        prompt_tokens=1000,
        reused_tokens=900,
        generated_tokens=50,
        transcript="",
    )


def test_mcnemar_is_the_sign_test_of_the_pairs_that_differ():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar(8, 2) == mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert 0 < mcnemar(400, 600) < 1e-9


def test_arms_are_compared_on_the_questions_that_all_have():
    reference = [answer(i, exact=i % 2 == 0) for i in range(40)]
    worse = [
        answer(i, exact=i % 2 == 0 and i >= 20, status=Status.LOOP if i < 4 else Status.ANSWERED)
        for i in range(30)
    ]
    result = compare("t", {"alone": reference, "shared": worse}, {"shared": ["alone", "absent"]})
    alone, shared = result.arms
    assert result.questions == 30
    assert alone.exact.value == 50
    assert alone.exact.low < 50 < alone.exact.high
    assert shared.exact.value == pytest.approx(100 * 5 / 30)
    assert shared.finished.value == pytest.approx(100 * 26 / 30)
    assert shared.finished.low <= shared.finished.value <= shared.finished.high
    assert shared.loops.value == pytest.approx(100 * 4 / 30)
    assert (shared.tool_errors, shared.steps, shared.reused) == (1, 4, 90)
    assert not alone.differences
    (difference,) = shared.differences
    assert (difference.won, difference.lost) == (0, 10)
    assert difference.p == pytest.approx(2 / 2**10)
    assert difference.exact.value == pytest.approx(-100 * 10 / 30)
    assert difference.exact.high < 0
    assert difference.f1.value == pytest.approx(-75 * 10 / 30)
    assert difference.unfinished.value == pytest.approx(100 * 4 / 30)


def test_pairs_are_kept_together():
    """An arm that is right on the very same questions differs by nothing, whatever is drawn."""
    found = [answer(i, exact=i % 3 == 0) for i in range(30)]
    same = compare("t", {"a": found, "b": found}, {"b": ["a"]}).arms[1].differences[0]
    assert (same.exact.low, same.exact.high, same.p) == (0, 0, 1)
    assert math.isclose(same.f1.high, 0)


def test_answers_to_a_question_are_drawn_together():
    """Two trainings that answer alike tell no more about the questions than one of them."""
    reference = [answer(i, exact=i % 2 == 0) for i in range(40)]
    other = [answer(i, exact=i % 3 == 0) for i in range(40)]
    once = compare("t", {"a": reference, "b": other}, {"b": ["a"]})
    twice = compare("t", {"a": 2 * reference, "b": [*other, *other]}, {"b": ["a"]})
    assert twice == once
    third = [answer(i, exact=True) for i in range(40)]
    thrice = compare("t", {"a": 3 * reference, "b": [*other, *other, *third]}, {"b": ["a"]})
    assert thrice.questions == 40
    assert thrice.arms[1].exact.value == pytest.approx(100 * (2 * 14 + 40) / 120)
    (difference,) = thrice.arms[1].differences
    assert (difference.won, difference.lost) == (20, 13)  # by how often a question was right
    unequal = compare("t", {"a": reference, "b": [*other, *third[:10]]}, {"b": ["a"]})
    assert unequal.questions == 30, "ten questions were answered more often by one of them"


def test_too_few_questions():
    with pytest.raises(EvaluationError, match="fewer than two"):
        compare("t", {"a": [answer(0, True)], "b": [answer(1, True)]}, {})

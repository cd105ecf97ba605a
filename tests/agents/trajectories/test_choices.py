from __future__ import annotations

import random

import pytest

from lragent.agents import Role
from lragent.agents.tools import DocumentStore
from lragent.agents.trajectories.choices import ChoiceQuestion, play_choices, solved_pages

SOLVED = [
    ChoiceQuestion("1", "Which of these is solid?", ("rain", "a hammer"), 1),
    ChoiceQuestion("2", "Which tense does the sentence use?\nShe sang.", ("past", "future"), 0),
]
ASKED = ChoiceQuestion("3", "Which tense does the sentence use?\nHe sings.", ("past", "present"), 1)


def play(question: ChoiceQuestion, wrong_share: float):
    store = DocumentStore(solved_pages(SOLVED))
    return play_choices([question], store, wrong_share, random.Random(1))


def test_a_question_is_answered_after_a_search():
    (script,) = play(ASKED, 0)
    plan, act = ([s for s in script.samples if s.role is role] for role in (Role.PLAN, Role.ACT))
    assert plan[0].input[1]["content"] == (
        "Question: Which tense does the sentence use? He sings. Options: (A) past (B) present"
    )
    assert [sample.output for sample in act] == [
        "Which tense does the sentence use? He sings.]",
        "present]",
    ]
    text = act[1].input[-1]["content"]
    assert "Observation 1: Solved 2: Which tense does the sentence use? She sang. The" in text
    assert plan[1].output == (
        " One like it has the answer past. So the answer is present.\nAction 2: Finish["
    )
    assert script.samples[-1].output.endswith("Reflect[right]")


def test_a_wrong_option_is_judged_and_put_right():
    (script,) = play(ASKED, 1)
    outputs = [sample.output for sample in script.samples]
    assert any(output.endswith("Reflect[wrong]") for output in outputs)
    assert "past]" not in outputs, "nobody may learn to write the wrong answer"
    assert "present]" in outputs


@pytest.mark.parametrize("option", ["[a]", "two\nlines"])
def test_options_that_brackets_cannot_hold_are_left_out(option: str):
    assert not play(ChoiceQuestion("4", "Which?", ("yes", option), 0), 0)


def test_every_answer_is_seen_by_a_search():
    long = ChoiceQuestion("5", "word " * 300 + "sing", ("past " * 60, "x"), 0)
    (page,) = solved_pages([long])
    store = DocumentStore([page])
    found, number = store.search("word")[0]
    assert "The answer is past" in found.passages[number]

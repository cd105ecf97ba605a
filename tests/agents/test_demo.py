from __future__ import annotations

import pytest

from lragent.agents.demo import DemoQuestion, demo_questions, demo_store
from lragent.agents.tools import document_toolbox

QUESTIONS = demo_questions()


def test_enough_documents_and_questions():
    assert 25 <= len(demo_store().documents) <= 40
    assert len(QUESTIONS) >= 8
    assert {question.type for question in QUESTIONS} == {"bridge", "comparison", "arithmetic"}


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.answer)
def test_each_question_is_answered_by_its_documents(question: DemoQuestion):
    tools = document_toolbox(demo_store())
    first, second = (tools.call("Retrieve", title).text for title in question.gold_titles)
    assert first.startswith(f"{question.gold_titles[0]}: ")
    assert question.gold_titles[0] in question.question
    if question.type == "bridge":
        assert question.gold_titles[1] in first
        assert question.answer in second
        assert question.answer not in first
    else:
        assert question.gold_titles[1] in question.question


def test_documents_are_short():
    for document in demo_store().documents:
        assert len(document.text) < 700
        assert document.passages[0].split()[0] in ("The", *document.title.split())

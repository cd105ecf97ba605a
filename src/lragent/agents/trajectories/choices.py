"""Multiple-choice questions, answered after a look at solved ones that are like them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lragent.agents.prompts import one_line
from lragent.agents.tools import DocumentStore
from lragent.agents.tools.passages import clip
from lragent.agents.trajectories.judging import finish
from lragent.agents.trajectories.phrases import PHRASES
from lragent.agents.trajectories.script import Script

_QUERY_WORDS = 16
_QUESTION_CHARS = 220
_FACT_CHARS = 80
_ANSWER = "The answer is "


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question, its options, and which of them is right."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def asked(self) -> str:
        """Question and options as the agents read them."""
        options = " ".join(
            f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(self.choices)
        )
        return one_line(f"{self.question} Options: {options}")

    @property
    def right(self) -> str:
        """The right option's text."""
        return one_line(self.choices[self.answer])


def solved_pages(questions: Iterable[ChoiceQuestion]) -> list[tuple[str, str]]:
    """A page for each question with its answer: what Search looks through.

    Each fits one observation, so that the answer is always seen.
    """
    return [
        (
            f"Solved {i}",
            f"{clip(q.question, _QUESTION_CHARS)} {_ANSWER}{clip(q.right, _FACT_CHARS)}",
        )
        for i, q in enumerate(questions, start=1)
    ]


def play_choices(
    questions: Sequence[ChoiceQuestion],
    solved: DocumentStore,
    wrong_share: float,
    rng: random.Random,
) -> list[Script]:
    """A complete script for each question: search among `solved`, answer, judgement.

    In `wrong_share` of them reflect first sees a wrong option. None of `questions` may be among the
    solved ones. Questions whose options cannot be written in brackets are left out.
    """
    scripts = []
    for question in questions:
        if any(set("[]\n") & set(choice) for choice in question.choices):
            continue
        script = Script(question.asked, solved)
        query = " ".join(one_line(question.question).split()[:_QUERY_WORDS]).replace("]", ")")
        observation = script.act("I look for a question like this one.", "Search", query)
        found = observation.rpartition(_ANSWER)[2].rstrip(" .")
        others = [one_line(c) for i, c in enumerate(question.choices) if i != question.answer]
        wrong = rng.choice(others) if others and rng.random() < wrong_share else None
        fact = f"One like it has the answer {found}" if found else "None is like it"
        finish(script, fact, question.right, PHRASES.compared, rng, wrong)
        scripts.append(script)
    return scripts

"""Trajectories of comparison questions: read both pages, then put their facts side by side."""

from __future__ import annotations

import random
import re

from lragent.agents.trajectories.bridge import open_page
from lragent.agents.trajectories.phrases import PHRASES
from lragent.agents.trajectories.records import Record
from lragent.agents.trajectories.script import Script
from lragent.agents.trajectories.spans import contains, extract, mention, overlap

_ABOUT_TIME = re.compile(
    r"\b(older|younger|oldest|youngest|first|earlier|later|before|after|born|died|founded|year|"
    r"recently|longer|old|lived|started|established)\b",
    re.IGNORECASE,
)
_YEAR = re.compile(r"\b1[0-9]{3}\b|\b20[0-9]{2}\b")


def play_comparison(record: Record, rng: random.Random) -> tuple[Script, tuple[str, str]] | None:
    """The reading part and the two facts; None when a page cannot be opened by its name."""
    question = record.question
    names = {title: mention(title, question) for title in record.gold}
    if not all(names.values()):
        return None
    (a, name_a), (b, name_b) = sorted(
        ((title, str(name)) for title, name in names.items()), key=lambda x: question.find(x[1])
    )
    script = Script(question, record.store())
    thought = PHRASES.compare_first.pick(rng, a=name_a, b=name_b)
    if not open_page(script, thought, name_a, a, rng):
        return None
    fact_a = fact_about(script.seen[-1], question)
    thought = PHRASES.compare_second.pick(rng, fact=fact_a, b=name_b)
    if not open_page(script, thought, name_b, b, rng):
        return None
    fact_b = fact_about(script.seen[-1], question)
    answer = record.answer
    known = answer in ("yes", "no") or contains(question, answer)
    if not known and not any(contains(sentence, answer) for sentence in script.sentences()):
        return None
    return script, (fact_a, fact_b)


def fact_about(observation: str, question: str) -> str:
    """Short extract of an observation that fits the question: a year where it asks about time."""
    sentences = Script.split(observation)
    if _ABOUT_TIME.search(question):
        for sentence in sentences:
            if year := _YEAR.search(sentence):
                return extract(sentence, year.group(), limit=16)
    best = max(range(len(sentences)), key=lambda i: (overlap(sentences[i], question), -i))
    return extract(sentences[best], limit=16)

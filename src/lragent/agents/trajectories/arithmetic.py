"""Made-up questions about the difference of two years, answered with Calculate."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lragent.agents.tools.passages import split_sentences
from lragent.agents.trajectories.bridge import open_page
from lragent.agents.trajectories.phrases import PHRASES
from lragent.agents.trajectories.records import Record
from lragent.agents.trajectories.script import Script
from lragent.agents.trajectories.spans import extract, short_title

_EVENTS: tuple[tuple[str, str], ...] = (
    ("born", r"\(?\bborn\b[^.()]{0,30}?\b(1[89]\d\d)\b"),
    ("founded", r"\bfounded in (1[5-9]\d\d|20[01]\d)\b"),
    ("opened", r"\bopened in (1[5-9]\d\d|20[01]\d)\b"),
    ("built", r"\bbuilt in (1[5-9]\d\d|20[01]\d)\b"),
    ("released", r"\bis an? (1[89]\d\d|20[01]\d) [^.]{0,40}\b(?:film|album|song)\b"),
)
_QUESTIONS = (
    "How many years after {a} was {b} {event}?",
    "How many years before {b} was {a} {event}?",
    "By how many years was {a} {event} earlier than {b}?",
)


@dataclass(frozen=True)
class _Dated:
    title: str
    event: str
    year: int
    sentence: str


@dataclass(frozen=True)
class Difference:
    """A played question: the script before its answer, the fact to state, the answer."""

    script: Script
    fact: str
    answer: str


def play_differences(records: Sequence[Record], count: int, rng: random.Random) -> list[Difference]:
    """At most `count` questions over the records' pages, one a record, in a seeded order."""
    played: list[Difference] = []
    for record in rng.sample(list(records), len(records)):
        if len(played) == count:
            break
        if (difference := _play(record, rng)) is not None:
            played.append(difference)
    return played


def _play(record: Record, rng: random.Random) -> Difference | None:
    dated = [found for title, text in record.pages if (found := _dated(title, text))]
    rng.shuffle(dated)
    pairs = [
        (a, b) for a in dated for b in dated if a.event == b.event and 0 < b.year - a.year < 400
    ]
    if not pairs:
        return None
    early, late = pairs[0]
    a, b = short_title(early.title), short_title(late.title)
    question = rng.choice(_QUESTIONS).format(a=a, b=b, event=early.event)
    script = Script(question, record.store())
    first, second = (early, late) if question.find(a) < question.find(b) else (late, early)
    name_1, name_2 = short_title(first.title), short_title(second.title)
    thought = PHRASES.compare_first.pick(rng, a=name_1, b=name_2)
    if not open_page(script, thought, name_1, first.title, rng):
        return None
    fact_1, fact_2 = (extract(d.sentence, str(d.year), limit=16) for d in (first, second))
    thought = PHRASES.compare_second.pick(rng, fact=fact_1, b=name_2)
    if not open_page(script, thought, name_2, second.title, rng):
        return None
    expression = f"{late.year} - {early.year}"
    thought = PHRASES.difference.pick(rng, fact=f"{fact_1}. {fact_2}", sum=expression)
    answer = script.act(thought, "Calculate", expression)
    return Difference(script, f"{expression} is {answer}", answer)


def _dated(title: str, text: str) -> _Dated | None:
    """The first dated event of a page, when the start of the page that Retrieve shows holds it."""
    for sentence in split_sentences(text)[:1]:
        for event, pattern in _EVENTS:
            if len(sentence) < 300 and (match := re.search(pattern, sentence)):
                return _Dated(title, event, int(match[1]), sentence)
    return None

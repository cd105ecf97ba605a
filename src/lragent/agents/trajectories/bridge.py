"""Trajectories of bridge questions: the first page names the second, which holds the answer."""

from __future__ import annotations

import random

from lragent.agents.trajectories.phrases import PHRASES
from lragent.agents.trajectories.records import Record
from lragent.agents.trajectories.script import Script
from lragent.agents.trajectories.spans import (
    contains,
    content_words,
    extract,
    mention,
    overlap,
    short_title,
)


def play_bridge(record: Record, rng: random.Random) -> Script | None:
    """The reading part of a bridge question; None when the tools cannot lead to the answer."""
    first, second = order_pages(record)
    script = Script(record.question, record.store())
    if not _open_first(script, record, first, rng):
        return None
    link = _find_link(script, record, first, second, rng)
    if link is None:
        return None
    sentence, name = link
    fact = extract(sentence, name)
    thought = PHRASES.next_page.pick(rng, fact=fact, name=name)
    if not open_page(script, thought, name, second, rng):
        return None
    answer = record.answer
    if not any(contains(text, answer) for text in script.sentences()):
        return script if _look_up(script, record, second, answer, rng) else None
    return script


def order_pages(record: Record) -> tuple[str, str]:
    """The gold pages in reading order: the one that the question names or describes first."""
    pages = dict(record.pages)

    def rank(first: str, second: str) -> tuple[bool, int, bool, int]:
        named = mention(first, record.question) is not None
        linked = mention(second, pages[first]) is not None
        answered = contains(pages[second], record.answer)
        shared = overlap(f"{first} {pages[first]}", record.question)
        return linked, named + answered, answered, shared

    a, b = record.gold
    return (a, b) if rank(a, b) >= rank(b, a) else (b, a)


def open_page(script: Script, thought: str, name: str, title: str, rng: random.Random) -> bool:
    """Retrieve `title` under the name that the text gives it; when that fails, by its title."""
    script.act(thought, "Retrieve", name)
    page = script.store.find(name)
    if page is not None:
        return page.title == title
    if title not in script.store.similar_titles(name):
        return False
    script.act(PHRASES.other_title.pick(rng, name=name, title=title), "Retrieve", title)
    return True


def _open_first(script: Script, record: Record, first: str, rng: random.Random) -> bool:
    name = mention(first, record.question)
    if name is not None:
        return open_page(script, PHRASES.first_page.pick(rng, name=name), name, first, rng)
    query = _query(script, record, first)
    if query is None:
        return False
    script.act(PHRASES.search.pick(rng, query=query), "Search", query)
    return True


def _query(script: Script, record: Record, title: str) -> str | None:
    """The longest run of question words, all of them on the page, that finds it by search."""
    page = set(content_words(f"{title} {dict(record.pages)[title]}"))
    words = record.question.rstrip("?").split()
    runs: dict[str, int] = {}
    for start in range(len(words)):
        for end in range(start + 1, min(start + 9, len(words)) + 1):
            run = " ".join(words[start:end]).strip(" ,.;:\"'()")
            known = content_words(run)
            ends = (words[start], words[end - 1])
            if len(known) > 1 and set(known) <= page and all(content_words(w) for w in ends):
                runs[run] = len(known)
    for run in sorted(runs, key=lambda run: -runs[run])[:12]:
        found = script.store.search(run)
        if found and found[0][0].title == title:
            return run
    return None


def _find_link(
    script: Script, record: Record, first: str, second: str, rng: random.Random
) -> tuple[str, str] | None:
    """A seen sentence that names the second page, and the name; looks it up when not yet seen."""
    for sentence in script.sentences():
        if name := mention(second, sentence):
            return sentence, name
    page = script.store.find(first)
    for sentence in page.sentences if page else ():
        name = mention(second, sentence)
        if name is None:
            continue
        keyword = _keyword(script, record.question, sentence, first)
        if keyword is None:
            return None
        seen = script.act(PHRASES.look_up.pick(rng, keyword=keyword), "Lookup", keyword)
        return (seen, name) if mention(second, seen) else None
    return None


def _look_up(script: Script, record: Record, title: str, answer: str, rng: random.Random) -> bool:
    """Find the answer's sentence on the open page by a word of the question."""
    page = script.store.find(title)
    for sentence in page.sentences if page else ():
        if contains(sentence, answer):
            keyword = _keyword(script, record.question, sentence, title)
            if keyword is None:
                return False
            thought = PHRASES.look_up.pick(rng, keyword=keyword)
            return contains(script.act(thought, "Lookup", keyword), answer)
    return False


def _keyword(script: Script, question: str, sentence: str, title: str) -> str | None:
    """A question word whose first sentence on the page is the wanted one."""
    page = script.store.find(title)
    if page is None:
        return None
    known = set(content_words(short_title(title)))
    candidates = [
        word
        for word in dict.fromkeys(w.strip(".,?;:\"'()") for w in question.split())
        if len(word) > 4 and word.lower() not in known and content_words(word)
    ]
    # Names first, then long words: short common words say nothing about what is looked for.
    for word in sorted(candidates, key=lambda w: (w.islower(), -len(w))):
        with_word = [s for s in page.sentences if word.lower() in s.lower()]
        if with_word and with_word[0] == sentence:
            return word
    return None


def best_fact(script: Script, question: str, answer: str) -> str | None:
    """Extract around the answer from the seen sentence that fits the question best."""
    holding = [s for s in script.sentences() if contains(s, answer)]
    if not holding:
        return None
    # Later sentences win ties: the second page is the one that answers.
    best = max(range(len(holding)), key=lambda i: (overlap(holding[i], question), i))
    return extract(holding[best], answer)

"""Ends of trajectories: the answer, a wrong answer, reflect's judgement, and a second try."""

from __future__ import annotations

import random
import re

from lragent.agents.scores import normalize_answer
from lragent.agents.trajectories.phrases import PHRASES, Frames
from lragent.agents.trajectories.script import Script
from lragent.agents.trajectories.spans import contains, extract

_NAME = re.compile(r"\b[A-Z][\w'\u2019-]+(?: (?:of |the |and )?[A-Z][\w'\u2019-]+)*")
_NUMBER = re.compile(r"\b\d[\d,.]*\d\b|\b\d\b")


def finish(
    script: Script, fact: str, answer: str, frames: Frames, rng: random.Random, wrong: str | None
) -> None:
    """Answer and have it judged.

    With `wrong`, that is answered first (no role learns to write it), judged wrong, and put right
    in a second try; half of the second answers are judged too.
    """
    if wrong is None:
        script.finish(frames.pick(rng, fact=fact, answer=answer), answer)
    else:
        claim = _claim(script, wrong) or fact
        script.finish(frames.pick(rng, fact=claim, answer=wrong), wrong, teach=False)
        script.reflect(PHRASES.judge.pick(rng, fact=fact, answer=answer, given=wrong), right=False)
        script.finish(PHRASES.retry.pick(rng, wrong=wrong, fact=fact, answer=answer), answer)
        if rng.random() < 0.5:
            return
    script.reflect(PHRASES.judge.pick(rng, fact=fact, answer=answer, given=answer), right=True)


def wrong_answer(
    script: Script, answer: str, alternatives: tuple[str, ...], rng: random.Random
) -> str | None:
    """One of `alternatives`, or another name or number of the observations, like the answer."""
    if answer in ("yes", "no"):
        return "no" if answer == "yes" else "yes"
    others = [name for name in alternatives if not _alike(name, answer)]
    if len(others) == 1:
        return others[0]
    pattern = _NUMBER if answer[0].isdigit() else _NAME
    found = [m.group() for sentence in script.sentences() for m in pattern.finditer(sentence)]
    found = [name for name in dict.fromkeys(found) if len(name) > 1 and not _alike(name, answer)]
    # Names of several words are names; a single one may just be a sentence's first word.
    found = [name for name in found if " " in name or pattern is _NUMBER] or found
    return rng.choice(found) if found else None


def _claim(script: Script, wrong: str) -> str | None:
    """What a reader who believes the wrong answer would quote."""
    for sentence in reversed(script.sentences()):
        if contains(sentence, wrong):
            return extract(sentence, wrong)
    return None


def _alike(a: str, b: str) -> bool:
    words_a, words_b = set(normalize_answer(a).split()), set(normalize_answer(b).split())
    return bool(words_a & words_b)

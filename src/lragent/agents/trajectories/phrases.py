"""Sentence frames of the thoughts.

Few and short: a model of 135M parameters learns them quickly and spends its effort on the copied
names. What varies comes from the question and the observations.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Frames:
    """Frames that say the same."""

    frames: tuple[str, ...]

    def pick(self, rng: random.Random, **names: str) -> str:
        """One frame with the names filled in; a name may end with a full stop itself."""
        return rng.choice(self.frames).format(**names).replace("..", ".")


@dataclass(frozen=True)
class Phrases:
    """All frames by purpose."""

    first_page: Frames
    next_page: Frames
    search: Frames
    other_title: Frames
    look_up: Frames
    compare_first: Frames
    compare_second: Frames
    answer: Frames
    compared: Frames
    retry: Frames
    judge: Frames
    difference: Frames
    result: Frames


PHRASES = Phrases(
    first_page=Frames(("I need to find {name}.", "First I need to find {name}.")),
    next_page=Frames(("{fact}. I need to find {name}.", "{fact}. Now I need to find {name}.")),
    search=Frames(("I need to search for {query}.", "First I search for {query}.")),
    other_title=Frames(("There is no page {name}. The page is {title}.",)),
    look_up=Frames(("The page may say more about {keyword}.", "I look for {keyword} on the page.")),
    compare_first=Frames(("I need to compare {a} and {b}. First I need to find {a}.",)),
    compare_second=Frames(("{fact}. Now I need to find {b}.",)),
    answer=Frames(("{fact}. So the answer is {answer}.", "{fact}. The answer is {answer}.")),
    compared=Frames(("{fact}. So the answer is {answer}.",)),
    retry=Frames(("{wrong} was wrong. {fact}. The answer is {answer}.",)),
    judge=Frames(("{fact}. The answer should be {answer}. It is {given}.",)),
    difference=Frames(("{fact}. I need to calculate {sum}.",)),
    result=Frames(("{fact}. So the answer is {answer}.",)),
)

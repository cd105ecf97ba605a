"""What every engine is asked: a context that passes through agents, then all of them at once.

Prompt lengths are never a whole number of pages: there the embedded engine reuses one token more
than vLLM, which would compute it again under another agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from tests.gpu.agreement.choices import Choice

Ask = tuple[int | None, list[int]]
"""An agent's number (None: the base model), and token ids."""

TURNS = (0, 1, 2, 0)
MIXED = (0, 1, 2, None)
TOKENS = 16
GAP = 9  # tokens of text between an agent's answer and the next agent
TAILS = (11, 18, 25, 32)
LENGTH = 968
NEEDED = len(TURNS) * (TOKENS + GAP) + sum(TAILS) + len(MIXED) * TOKENS


class Asked(Protocol):
    """An engine as this module wants it."""

    def ask(
        self, asks: Sequence[Ask], tokens: int, salt: str
    ) -> tuple[list[list[Choice]], list[int]]:
        """Greedy choices after prompts that come at once, and each prompt's cached tokens."""
        ...


@dataclass(frozen=True)
class Step:
    """Prompts that are asked at once, and the tokens that follow each."""

    asks: list[Ask]
    tokens: list[list[int]]


@dataclass(frozen=True)
class Answers:
    """Choices and cached prompt tokens by step and prompt."""

    choices: list[list[list[Choice]]]
    cached: list[list[int]]


def walk(
    ids: Sequence[int], length: int, answer: Callable[[list[Ask], Iterator[int]], list[list[int]]]
) -> list[Step]:
    """The steps; ``answer`` says what follows the prompts, and may take text for it.

    Args:
        ids: running text, at least ``length + NEEDED`` tokens.
        length: tokens of the first prompt.
        answer: from the prompts and the text to `TOKENS` tokens a prompt.
    """
    text = iter(ids)
    context = take(text, length)
    steps = []
    for agent in TURNS:
        asks: list[Ask] = [(agent, context)]
        steps.append(Step(asks, answer(asks, text)))
        context = [*context, *steps[-1].tokens[0], *take(text, GAP)]
    asks = [(a, [*context, *take(text, n)]) for a, n in zip(MIXED, TAILS, strict=True)]
    return [*steps, Step(asks, answer(asks, text))]


def take(text: Iterator[int], count: int) -> list[int]:
    """The next tokens of the text."""
    return [next(text) for _ in range(count)]


def forced(ids: Sequence[int], length: int) -> list[Step]:
    """Steps in which text follows each prompt, whatever an engine would choose."""
    return walk(ids, length, lambda asks, text: [take(text, TOKENS) for _ in asks])


def free(engine: Asked, ids: Sequence[int], length: int) -> tuple[list[Step], Answers]:
    """Steps in which the engine's own greedy tokens follow each prompt."""
    answers = Answers([], [])

    def generate(asks: list[Ask], _: Iterator[int]) -> list[list[int]]:
        choices, cached = engine.ask(asks, TOKENS, "free")
        answers.choices.append(choices)
        answers.cached.append(cached)
        return [[choice.token for choice in row] for row in choices]

    return walk(ids, length, generate), answers


def replay(engine: Asked, steps: Sequence[Step], salt: str, wide: bool = False) -> Answers:
    """Choices for each token of each prompt, given all before it; the cache is used.

    Args:
        engine: whom to ask.
        steps: prompts and what follows.
        salt: separates this replay's pages from all others.
        wide: ask for all tokens of a step after the first at once. Without sharing the
            answers are the same but for rounding.
    """
    answers = Answers([], [])
    for step in steps:
        grown = [
            [(agent, [*prompt, *row[:end]]) for (agent, prompt), row in zip(*both, strict=True)]
            for both in [(step.asks, step.tokens)]
            for end in range(TOKENS)
        ]
        batches = [grown[0], list(chain(*grown[1:]))] if wide else grown
        found: list[list[Choice]] = []
        cached: list[list[int]] = []
        for batch in batches:
            choices, hits = engine.ask(batch, 1, salt)
            found.append([row[0] for row in choices])
            cached.append(hits)
        flat = list(chain(*found))
        width = len(step.asks)
        answers.choices.append([flat[place::width] for place in range(width)])
        answers.cached.append(cached[0])
    return answers


def rotated(steps: Sequence[Step]) -> list[Step]:
    """The same tokens, each under the next agent's adapter."""
    turn = {0: 1, 1: 2, 2: 0, None: None}
    return [Step([(turn[agent], p) for agent, p in step.asks], step.tokens) for step in steps]


def steps_from_json(data: Sequence[dict[str, Any]]) -> list[Step]:
    """Steps from plain data."""
    return [Step([(agent, p) for agent, p in row["asks"]], row["tokens"]) for row in data]

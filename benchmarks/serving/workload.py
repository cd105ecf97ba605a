"""Prompts and sessions, the same for every engine: token ids from a seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from benchmarks.serving.drive import Ask, Session

PLAN, ACT, REFLECT = range(3)
FIRST_ID = 3  # bos and eos stay out


def draw(vocab: int, count: int, *names: object) -> list[int]:
    """Random token ids; the same names give the same ids."""
    seed = zlib.crc32(repr(names).encode())
    return np.random.default_rng(seed).integers(FIRST_ID, vocab, count).tolist()


def single(ask: Ask) -> Session:
    """One request."""
    yield ask


def workflow(
    context: Sequence[int],
    fresh: Callable[[int], Sequence[int]],
    rounds: int = 3,
    generate: int = 64,
) -> Session:
    """A prompt passes plan, act and reflect ``rounds`` times.

    Each generates ``generate`` tokens; they and the tokens of ``fresh(step)`` extend the prompt.
    """
    tokens, found = list(context), ()
    for step in range(3 * rounds):
        generated = yield Ask(step % 3, tokens, generate, len(found))
        found = fresh(step)
        tokens = [*tokens, *generated, *found]


def trace_steps(chunk: int) -> list[tuple[int, int, int]]:
    """The 17-step efficiency trace of LRAgent: agent, tokens to prefill, tokens to generate.

    ``chunk`` is C: 912 + 4 C tokens in all, 280 of them generated.
    """
    steps = [(PLAN, 512, 32), (PLAN, 8, 8), (ACT, 8, 8)]
    for _ in range(4):
        steps += [(PLAN, chunk, 32), (PLAN, 8, 8), (ACT, 8, 8)]
    return [*steps, (REFLECT, 32, 32), (REFLECT, 8, 8)]


def trace_length(chunk: int) -> int:
    """All tokens of the trace."""
    return sum(prefill + generate for _, prefill, generate in trace_steps(chunk))


def trace(chunk: int, vocab: int, *names: object) -> Session:
    """The trace as a session; the names choose its tokens."""
    steps = trace_steps(chunk)
    parts = [draw(vocab, prefill, *names, step) for step, (_, prefill, _) in enumerate(steps)]
    return _extend(steps, parts, chunk)


def _extend(
    steps: Sequence[tuple[int, int, int]], parts: Sequence[Sequence[int]], chunk: int
) -> Session:
    tokens: list[int] = []
    start = None  # of the last chunk, which stands for a tool's output
    for (agent, _, generate), part in zip(steps, parts, strict=True):
        start = len(tokens) if tokens and len(part) == chunk else start
        tokens = [*tokens, *part]
        page = 0 if start is None else len(tokens) - start
        generated = yield Ask(agent, tokens, generate, page)
        tokens = [*tokens, *generated]

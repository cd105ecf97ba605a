"""Exceptions at any line of a step: the books stay right and no answer changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.engine.models import prompt_of, tiny_model
from tests.interrupt import interrupted

from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import GenerationFailedError

PAGE_BYTES = 3 * (2 * 2 * 8 * 16 + 16 * 4) * 4
PARAMS = SamplingParams(max_tokens=4, ignore_eos=True, temperature=1.0, seed=5)
WORK = [
    (None, 0, 40, None),
    ("plan", 0, 37, None),
    ("act", 0, 37, None),
    ("plan", 1, 20, (5, 1, 7, 9)),  # its output is forced
]


def small_engine(adapters: dict[str, Path], sharing: str = "isolated") -> Engine:
    """So few pages that requests are preempted and pages evicted."""
    return Engine((tiny_model(), None), adapters, sharing, kv_bytes=8 * PAGE_BYTES)


@pytest.fixture(scope="module")
def engine(shared_a: dict[str, Path]) -> Iterator[Engine]:
    with small_engine(shared_a) as engine:
        yield engine


def drain(engine: Engine) -> None:
    while engine.step():
        pass


def run(engine: Engine, at_line: int) -> tuple[list[tuple[int, ...] | str], int]:
    """The answers of a mixed batch, and the lines that ran before the interrupt."""
    requests = [
        engine.submit(
            prompt_of(length, seed), adapter=adapter, sampling_params=PARAMS, forced=forced
        )
        for adapter, seed, length, forced in WORK
    ]
    with interrupted(at_line) as seen, suppress(KeyboardInterrupt):
        drain(engine)
    engine.check_integrity()
    answers: list[tuple[int, ...] | str] = []
    for request in requests:
        try:
            answers.append(request.result().token_ids)
        except GenerationFailedError as error:
            answers.append(str(error))
    assert engine.stats().pages["leased"] == 0
    return answers, seen[0]


@pytest.mark.parametrize("sharing", ["isolated", "neutral"])
def test_an_interrupt_at_any_line_of_a_step_leaves_the_books_right(
    shared_a: dict[str, Path], sharing: str
):
    engine = small_engine(shared_a, sharing)
    expected, lines = run(engine, at_line=-1)
    assert all(isinstance(answer, tuple) for answer in expected)
    hurt = 0
    # a stride that is prime to the lines of a loop meets other lines of it each time
    for at_line in range(1, lines, lines // 100 | 1):
        answers, _ = run(engine, at_line)
        for answer, alone in zip(answers, expected, strict=True):
            if isinstance(answer, str):
                assert "interrupted while it handed over a token" in answer
                hurt += 1
            elif len(answer) == len(alone):
                assert answer == alone
            else:
                pytest.fail(f"line {at_line}: {answer} is cut short")
    assert hurt < 15


def test_a_second_interrupt_may_hit_the_recovery(engine: Engine):
    expected, lines = run(engine, at_line=-1)
    for second in range(1, 200, 7):
        requests = [
            engine.submit(
                prompt_of(length, seed), adapter=adapter, sampling_params=PARAMS, forced=forced
            )
            for adapter, seed, length, forced in WORK
        ]
        for at_line in (lines // 3, second):
            with interrupted(at_line), pytest.raises(KeyboardInterrupt):
                drain(engine)
        engine.check_integrity()
        assert [request.result().token_ids for request in requests] == expected


@pytest.mark.parametrize("call", [1, 2, 3, 5, 8])
def test_a_failing_allocation_ends_the_request_that_asked(engine: Engine, call: int):
    expected, _ = run(engine, at_line=-1)
    calls = [0]

    def allocate() -> None:
        calls[0] += 1
        if calls[0] == call:
            raise MemoryError("no page")

    engine._cache.reset()
    engine._cache._pool._hook = allocate
    answers, _ = run(engine, at_line=-1)
    engine._cache.reset()
    failed = [answer for answer in answers if isinstance(answer, str)]
    assert failed == ["MemoryError: no page"]
    assert all(a == e for a, e in zip(answers, expected, strict=True) if not isinstance(a, str))

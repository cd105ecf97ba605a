"""The loop that takes the times, on an engine whose steps last one second."""

from __future__ import annotations

import pytest
from benchmarks.serving.drive import Ask, Run, drive
from benchmarks.serving.parts import first_tokens, trajectory_times
from benchmarks.serving.workload import single
from tests.benchmarks.fake_engine import FakeEngine


def run(engine: FakeEngine, sessions, give_up=None) -> Run:
    return drive(engine, sessions, give_up, engine.clock, engine.sleep)


def test_a_single_request_waits_for_its_prefill():
    engine = FakeEngine(prefill=100)
    found = run(engine, [(0.0, single(Ask(0, [5] * 250, 4)))])
    (timing,) = found.timings
    assert (timing.started, timing.first, timing.done, timing.tokens) == (0.0, 3.0, 6.0, 4)
    assert found.seconds == 6.0
    assert not found.given_up


def two_steps():
    generated = yield Ask(0, [5] * 10, 2)
    yield Ask(1, [5] * 10 + list(generated), 3)


def test_a_session_goes_on_with_what_was_generated():
    engine = FakeEngine()
    found = run(engine, [(0.0, two_steps())])
    assert [list(ask.prompt)[10:] for ask in engine.log] == [[], [1001, 1002]]
    assert [t.started for t in found.timings] == [0.0, 2.0]  # at the end of the one before
    assert [t.first for t in found.timings] == [1.0, 3.0]


def test_time_counts_from_the_arrival_and_not_from_the_next_step():
    engine = FakeEngine(prefill=100)
    sessions = [(0.0, single(Ask(0, [5] * 100, 3))), (0.25, single(Ask(0, [5] * 100, 1)))]
    late = run(engine, sessions).timings[0]
    assert (late.session, late.started, late.first) == (1, 0.25, 2.0)


def test_it_sleeps_until_the_next_arrival():
    engine = FakeEngine()
    found = run(engine, [(5.0, single(Ask(0, [5], 1)))])
    assert found.timings[0].started == 5.0
    assert found.seconds == pytest.approx(6.0)


def test_giving_up_counts_what_waited():
    engine = FakeEngine(prefill=100)
    sessions = [
        (0.0, single(Ask(0, [5] * 100, 2))),
        (0.0, single(Ask(0, [5] * 900, 1))),
        (3.5, single(Ask(0, [5], 1))),
    ]
    found = run(engine, sessions, give_up=3.2)
    assert found.given_up
    assert engine.aborted == ["1-1"]
    assert [(t.session, t.first, t.done) for t in found.timings] == [
        (0, 1.0, 2.0),
        (1, None, None),
        (2, None, None),
    ]
    assert first_tokens(found) == [1.0, 4.0, 0.5]
    assert trajectory_times(found, sessions) == [2.0, 4.0, 0.5]

"""Cache and groups against a plain reference with symbolic page contents."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.model_based.machine import CacheMachine

RUNS, LONG_RUNS, PARTS = 200, 20_000, 20
SETTINGS = settings(
    max_examples=RUNS,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# What the runs have to meet, or their agreement would mean nothing.
EVENTS = (
    "isolated hit",
    "full hit",
    "base hit",
    "base+lr hit",
    "neutral hit",
    "private page filled",
    "miss",
    "lr behind base",
    "eviction",
    "out of pages",
    "failed allocation",
    "unload frees pages",
    "commit of a forgotten lease",
    "fork",
    "resumed",
    "abort in prefill",
    "changed policy",
    "refused load",
    "interrupted admit",
    "interrupted compute",
    "interrupted finish",
    "interrupted put",
    "interrupted remove",
    "interrupted reset",
)


def test_cache_agrees_with_the_reference() -> None:
    CacheMachine.events.clear()
    run_state_machine_as_test(CacheMachine, settings=SETTINGS)
    rare = {event: n for event in EVENTS if (n := CacheMachine.events[event]) < 10}
    assert not rare, f"the runs prove little about these: {rare}"


def test_the_reference_is_small_and_shares_no_code() -> None:
    for name, most in (("reference.py", 200), ("world.py", 100)):
        lines = (Path(__file__).parent / name).read_text().splitlines()
        assert len(lines) <= most, f"{name} has {len(lines)} lines"
        assert not [line for line in lines if "import" in line and "lragent" in line]


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_long_runs_agree_with_the_reference(part: int) -> None:
    """Each part has random numbers of its own."""
    many = settings(SETTINGS, max_examples=LONG_RUNS // PARTS, derandomize=False)
    run_state_machine_as_test(CacheMachine, settings=many)

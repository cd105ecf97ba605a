"""Cache and groups against a plain reference with symbolic page contents."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.model_based.machine import CacheMachine

RUNS, LONG_RUNS, PARTS = 200, 20_000, 20
SETTINGS = settings(
    max_examples=RUNS,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
# A planted fault ends the runs: 100 are enough for the one that is hardest to meet.
UNTIL_CAUGHT = settings(
    SETTINGS,
    max_examples=5_000,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
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


def agrees(machine: type[CacheMachine], wanted: Iterable[str]) -> None:
    """200 runs of 50 steps, and 200 others, at most ten times, until each event was met often."""
    machine.events.clear()
    rare = dict.fromkeys(wanted, 0)
    for part in range(10):
        others = type(machine.__name__, (machine,), {})
        run_state_machine_as_test(seed(part)(others), settings=SETTINGS)
        rare = {event: n for event in rare if (n := machine.events[event]) < 10}
        if not rare:
            break
    assert not rare, f"the runs prove little about these: {rare}"


def test_cache_agrees_with_the_reference() -> None:
    agrees(CacheMachine, EVENTS)


def test_the_reference_is_small_and_shares_no_code() -> None:
    for name, most in (("reference.py", 200), ("world.py", 100)):
        lines = (Path(__file__).parent / name).read_text().splitlines()
        assert len(lines) <= most, f"{name} has {len(lines)} lines"
        assert not [line for line in lines if "import" in line and "lragent" in line]


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_long_runs_agree_with_the_reference(part: int) -> None:
    """Each part has random numbers of its own."""
    many = settings(SETTINGS, max_examples=LONG_RUNS // PARTS)
    run_state_machine_as_test(CacheMachine, settings=many)

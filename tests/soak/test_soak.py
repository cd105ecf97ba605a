"""Nothing grows, nothing is left, and the same seed gives the same steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.soak.gauges import slope
from tests.soak.service import Service
from tests.soak.simulation import Simulation

REQUESTS, MANY = 4_000, 1_000_000


def test_two_thousand_requests_leave_nothing_behind(tmp_path: Path):
    service = Service(tmp_path, seed=1)
    gauges = service.run(2_000)
    assert service.cancelled > 20
    assert service.reused > 2_000
    gauges.check()


def test_the_same_seed_gives_the_same_steps_in_another_process():
    first, other = Simulation(1), Simulation(2)
    first.run(REQUESTS).check()
    other.run(REQUESTS)
    assert first.digest != other.digest
    assert first.cancelled > 20
    assert first.scheduler.preemptions > 0
    assert first.cache.stats().evictions > 0
    assert first.counts.reused_tokens > first.counts.prompt_tokens // 4
    # other hash values of strings, other addresses
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    again = subprocess.run(
        [sys.executable, "-m", "tests.soak.simulation", "1", str(REQUESTS)],
        capture_output=True, text=True, check=True, env=environment,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert again.stdout.strip() == first.digest


def test_a_slope_is_that_of_the_line_through_the_samples():
    assert slope([1.0, 3.0, 5.0, 7.0]) == pytest.approx(2)
    assert slope([4.0, 1.0, 4.0, 1.0, 4.0]) == pytest.approx(0)


@pytest.mark.long
def test_a_million_requests_leave_nothing_behind():
    Simulation(1).run(MANY).check()

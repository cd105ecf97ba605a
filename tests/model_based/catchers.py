"""Tests as functions that raise when a fault is planted, and the table of what catches what.

python -m tests.model_based.catchers    # writes benchmarks/results/planted-faults.json
"""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path

import pytest
from benchmarks.common.files import RESULTS, save
from hypothesis.stateful import run_state_machine_as_test
from tests.adapters.factory import make_adapter
from tests.engine.models import tiny_model
from tests.engine.neutral_jobs import Judge, Story, neutral_engine, tell
from tests.engine.test_neutral import joins, two
from tests.model_based.faults import ENGINE, FAULTS, MACHINE, SOAK
from tests.model_based.machine import CacheMachine
from tests.model_based.test_cache_machine import UNTIL_CAUGHT
from tests.planted import Catcher, matrix
from tests.soak.simulation import Simulation

from lragent.cache.manager import CacheManager


def model_based() -> None:
    """The state machine; the books' own proof is switched off, and must not be what catches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CacheManager, "check_integrity", lambda manager: None)
        run_state_machine_as_test(CacheMachine, settings=UNTIL_CAUGHT)


@functools.cache
def _adapters() -> dict[str, Path]:
    """Three adapters of different ranks, each with an A of its own."""
    root, model = Path(tempfile.mkdtemp(prefix="lragent-faults-")), tiny_model()
    return {
        "plan": make_adapter(root / "plan", model, rank=4, seed=4),
        "act": make_adapter(root / "act", model, rank=3, seed=5),
        "reflect": make_adapter(root / "reflect", model, rank=6, seed=6, use_rslora=True),
    }


def dense_reference() -> None:
    """The embedded engine under `neutral`: answers in mixed batches, and of a member that joins."""
    adapters, reference = _adapters(), tiny_model()
    story = Story(random.Random(5), 96, 90)
    with neutral_engine(adapters, page_size=4) as engine:
        tell(engine, (*adapters, None), story, 4, Judge(reference, adapters))
    with two(adapters) as engine:
        joins(engine, reference, adapters)


def simulation() -> None:
    """Scheduler and cache under a virtual clock: nothing grows, and a seed gives one digest."""
    first, again = Simulation(1), Simulation(1)
    first.run(2_000).check()
    again.run(2_000)
    assert first.digest == again.digest


CATCHERS: dict[str, Catcher] = {
    MACHINE: model_based, ENGINE: dense_reference, SOAK: simulation
}  # fmt: skip


if __name__ == "__main__":
    save(RESULTS / "planted-faults.json", matrix(FAULTS, CATCHERS))

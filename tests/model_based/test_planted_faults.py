"""Each planted fault is caught, and the committed table says by what."""

from __future__ import annotations

import pytest
from benchmarks.common.files import RESULTS, load
from tests.model_based.catchers import CATCHERS
from tests.model_based.faults import ENGINE, FAULTS
from tests.planted import caught, pairs


def test_without_a_fault_the_engine_agrees_with_the_dense_reference():
    CATCHERS[ENGINE]()


@pytest.mark.parametrize(("fault", "catcher"), pairs(FAULTS))
def test_a_planted_fault_is_caught(fault: str, catcher: str):
    assert caught(CATCHERS[catcher], FAULTS[fault])


def test_the_table_is_of_these_faults():
    """If this fails, run ``python -m tests.model_based.catchers``."""
    table = load(RESULTS / "planted-faults.json")
    assert table["catchers"] == list(CATCHERS)
    assert [(row["fault"], row["what"]) for row in table["faults"]] == [
        (name, fault.what) for name, fault in FAULTS.items()
    ]
    for row in table["faults"]:
        assert set(row["caught_by"]) >= set(FAULTS[row["fault"]].caught_by), row["fault"]

"""The plugin's books agree with the reference, and planted faults are caught."""

from __future__ import annotations

import pytest
from benchmarks.common.files import RESULTS, load
from tests.model_based.test_cache_machine import EVENTS, agrees
from tests.planted import caught, pairs
from tests.vllm.core.faults import FAULTS
from tests.vllm.core.machine import CATCHERS, PluginMachine


def test_the_plugin_agrees_with_the_reference() -> None:
    never = {"failed allocation", "commit of a forgotten lease"}
    agrees(PluginMachine, [e for e in EVENTS if e not in never and not e.startswith("interrupted")])


@pytest.mark.parametrize(("fault", "catcher"), pairs(FAULTS))
def test_a_planted_fault_is_caught(fault: str, catcher: str) -> None:
    assert caught(CATCHERS[catcher], FAULTS[fault])


def test_the_table_is_of_these_faults() -> None:
    """If this fails, run ``python -m tests.vllm.core.machine``."""
    rows = load(RESULTS / "planted-faults-vllm.json")["faults"]
    assert [(row["fault"], row["what"], row["caught_by"]) for row in rows] == [
        (name, fault.what, [*fault.caught_by]) for name, fault in FAULTS.items()
    ]

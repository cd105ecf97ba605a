"""The state machine of the embedded engine's books, over the plugin's.

python -m tests.vllm.core.machine    # writes benchmarks/results/planted-faults-vllm.json
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.common.files import RESULTS, save
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from tests.model_based.machine import CacheMachine
from tests.model_based.test_cache_machine import UNTIL_CAUGHT
from tests.model_based.world import Team
from tests.planted import Catcher, matrix
from tests.vllm.core.books import PluginBooks
from tests.vllm.core.faults import FAULTS, MACHINE
from vllm.plugins import load_general_plugins

from lragent.vllm.core.block_validity import BlockValidity


class PluginMachine(CacheMachine):
    """vLLM has no call that allocates without computing, and does not outlive an interrupt."""

    extend: Any = None
    ask_too_much: Any = None
    failing_allocation: Any = None
    interrupt: Any = None

    def make_books(self, teams: dict[str, Team]) -> Any:
        load_general_plugins()
        return PluginBooks(teams)

    @rule(share=st.integers(1, 4))
    def pressure(self, share: int) -> None:
        """One request takes a part of the pages there are, or all, and goes; another comes then."""
        request = self._admit(None, "pressure", [0, 1] * self.books.num_pages)
        count = self.reference.available() * share // 4 * self.books.page_size
        self._chunk(request, count)
        if share == 4:
            self._admit(None, "late", [1, 0])
        self._end(request)


def model_based() -> None:
    """The state machine; the books' own proof is switched off, and must not be what catches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockValidity, "check_integrity", lambda validity, requests: None)
        run_state_machine_as_test(PluginMachine, settings=UNTIL_CAUGHT)


CATCHERS: dict[str, Catcher] = {MACHINE: model_based}

if __name__ == "__main__":
    save(RESULTS / "planted-faults-vllm.json", matrix(FAULTS, CATCHERS))

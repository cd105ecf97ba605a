"""The state machine of the embedded engine's books drives the plugin's."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from tests.model_based.machine import CacheMachine
from tests.model_based.test_cache_machine import EVENTS, SETTINGS
from tests.model_based.world import Team
from vllm.plugins import load_general_plugins

from tests.vllm.core.books import PluginBooks  # isort: skip


class PluginMachine(CacheMachine):
    """vLLM has no call that allocates without computing, and does not outlive an interrupt."""

    extend: Any = None
    ask_too_much: Any = None
    failing_allocation: Any = None
    interrupt: Any = None

    def make_books(self, teams: dict[str, Team]) -> Any:
        return PluginBooks(teams)

    @rule(share=st.integers(1, 4))
    def pressure(self, share: int) -> None:
        """One request takes a part of the pages there are, or all, and goes."""
        request = self._admit(None, "pressure", [0, 1] * self.books.num_pages)
        count = self.reference.available() * share // 4 * self.books.page_size
        self._chunk(request, count)
        self._end(request)


def test_the_plugin_agrees_with_the_reference() -> None:
    load_general_plugins()
    PluginMachine.events.clear()
    run_state_machine_as_test(PluginMachine, settings=settings(SETTINGS))
    never = {"failed allocation", "commit of a forgotten lease"}
    wanted = [e for e in EVENTS if e not in never and not e.startswith("interrupted")]
    rare = {event: n for event in wanted if (n := PluginMachine.events[event]) < 10}
    assert not rare, f"the runs prove little about these: {rare}"

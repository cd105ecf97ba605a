"""The bare base model as a member of a group."""

from __future__ import annotations

from pathlib import Path

from tests.engine.models import prompt_of
from tests.vllm.serving import AGENTS, PAGE, Ask, Served, folders, sharing

CONTEXT = prompt_of(150)
FULL = len(CONTEXT) // PAGE * PAGE


def test_the_base_model_shares_in_a_group_that_includes_it(root: Path):
    adapters = folders(root, "own")
    group = {"members": list(AGENTS), "include_base_model": True}
    option = sharing("base+lr", adapters, groups=[group])
    with Served(root / "llama", adapters, option) as served:
        first = served.ask(Ask(None, CONTEXT))[0]
        assert first.cached == 0
        for name in AGENTS:  # the base model has filled everyone's slot
            assert served.ask(Ask(name, CONTEXT))[0].cached == FULL
        assert served.ask(Ask(None, CONTEXT))[0].cached == FULL

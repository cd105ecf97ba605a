"""KV events name all who can find a block, so that a router sends a group to one replica."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.vllm.core.world import PAGE, World
from tests.vllm.serving import folders

pytestmark = pytest.mark.every_version

CONTEXT = [3 + i % 80 for i in range(3 * PAGE + 5)]


class Publisher:
    """Keeps what vLLM would publish."""

    def __init__(self) -> None:
        self.stored: list[Any] = []

    def publish(self, batch: Any) -> None:
        self.stored += [event for event in batch.events if hasattr(event, "token_ids")]


def test_blocks_are_stored_under_the_groups_name(root: Path):
    adapters = folders(root, "own")
    option = {
        "policy": "base", "groups": [{"members": ["plan", "act"], "include_base_model": True}],
        "slots": 2, "allow_other_base": True,
    }  # fmt: skip
    here = World(
        root / "llama", adapters, option, pages=40,
        kv_events_config={"enable_kv_cache_events": True, "publisher": "null"},
    )  # fmt: skip
    publisher = here.scheduler.kv_event_publisher = Publisher()
    for name, shared_as, stored in (
        ("act", "act+plan", 3), ("plan", "act+plan", 0), (None, "act+plan", 0),
        ("reflect", "reflect", 3),
    ):  # fmt: skip
        request = here.submit(name, CONTEXT)
        here.finish()
        found, publisher.stored = publisher.stored, []
        assert sum(len(event.block_hashes) for event in found) == stored
        assert {(event.lora_id, event.lora_name) for event in found} <= {(None, shared_as)}
        for event in found:
            [key] = here.bindings[request].keys
            assert event.extra_keys == [(key,)] * len(event.block_hashes)

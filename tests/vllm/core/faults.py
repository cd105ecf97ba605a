"""Faults that tests plant in the plugin's books."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.planted import Fault

from lragent.cache.client import CacheClient
from lragent.vllm.core import block_validity, request_keys
from lragent.vllm.core.bindings import ServedBinding
from lragent.vllm.core.block_validity import BlockValidity
from lragent.vllm.messages import NEVER

Patch = pytest.MonkeyPatch
MACHINE = "model-based test"


def _bits_survive_reuse(patch: Patch) -> None:
    def clear(validity: BlockValidity, page: int) -> None:
        validity.owner.pop(page, None)

    patch.setattr(BlockValidity, "_clear", clear)


def _one_page_too_many(patch: Patch) -> None:
    admit = BlockValidity._admit

    def generous(validity: BlockValidity, request: Any, computed: int) -> None:
        base, fills, lr = validity._found[request.request_id]
        validity._found[request.request_id] = (base + validity._size, fills, lr)
        admit(validity, request, computed)

    patch.setattr(BlockValidity, "_admit", generous)


def _keys_without_contents(patch: Patch) -> None:
    patch.setattr(ServedBinding, "keys", ["lragent:same"])


def _turns_are_published(patch: Patch) -> None:
    for module in (block_validity, request_keys):
        patch.setattr(module, "shareable", lambda request: NEVER)


def _bits_before_writing(patch: Patch) -> None:
    admit = BlockValidity._admit

    def early(validity: BlockValidity, request: Any, computed: int) -> None:
        admit(validity, request, computed)
        progress = validity._progress[request.request_id]
        progress.fills = tuple(replace(write, start=0) for write in progress.fills)
        progress.pages_done = 0

    patch.setattr(BlockValidity, "_admit", early)


def _unloaded_pages_stay(patch: Patch) -> None:
    def forget(validity: BlockValidity, sharers: Sequence[str]) -> int:
        return sum(owner in sharers for owner in validity.owner.values())

    patch.setattr(BlockValidity, "forget", forget)


def _any_slot_will_do(patch: Patch) -> None:
    patch.setattr(CacheClient, "needed_mask", property(lambda client: 0))


FAULTS: dict[str, Fault] = {
    "bits-survive-reuse": Fault(
        "validity bits stay when a page is handed out again", _bits_survive_reuse, (MACHINE,)
    ),
    "one-page-too-many": Fault(
        "a base hit is taken to reach one page further", _one_page_too_many, (MACHINE,)
    ),
    "keys-without-contents": Fault(
        "page keys say nothing of the contents", _keys_without_contents, (MACHINE,)
    ),
    "bits-before-writing": Fault(
        "a slot counts as valid on a page that was skipped", _bits_before_writing, (MACHINE,)
    ),
    "unloaded-pages-stay": Fault(
        "pages of an unloaded adapter can still be found", _unloaded_pages_stay, (MACHINE,)
    ),
    "neutral-turn-published": Fault(
        "`neutral`: a block with a token of a turn is published", _turns_are_published, (MACHINE,)
    ),
    "neutral-new-a-valid": Fault(
        "the slot of a new A is taken as valid", _any_slot_will_do, (MACHINE,)
    ),
}

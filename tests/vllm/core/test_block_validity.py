"""Validity bits run along with vLLM's pages: counts, calls by position, and the check of all."""

# pyright: reportMissingImports=false

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.vllm.core.world import PAGE, World
from tests.vllm.serving import folders, sharing

from lragent.vllm.core.block_validity import BlockValidity
from lragent.vllm.errors import PluginError

pytestmark = pytest.mark.every_version

CONTEXT = [3 + i % 80 for i in range(3 * PAGE + 5)]


def world(root: Path, policy: str = "base", pages: int = 40, **option: object) -> World:
    adapters = folders(root, "own")
    return World(root / "llama", adapters, sharing(policy, adapters, **option), pages=pages)


def test_counts_are_what_a_walk_over_all_pages_finds(root: Path):
    here, choice = world(root, pages=18, debug=True), random.Random(3)
    for turn in range(40):
        length = choice.randrange(5, len(CONTEXT))
        here.submit(choice.choice([*here.adapters, None]), CONTEXT[:length], new=4)
        here.step(choice)
        here.step(choice)
        if turn == 30:
            here.finish(choice)
            here.plugin.unload(here.ids["plan"])
        pool, validity = here.scheduler.kv_cache_manager.block_pool, here.plugin.validity
        pages = [block for block in pool.blocks if not block.is_null]
        report = here.plugin.report()
        assert report["pages"] == {
            "total": len(pages),
            "leased": sum(block.ref_cnt > 0 for block in pages),
            "cached": sum(block.block_hash is not None for block in pages),
        }
        bits = sum(bits.bit_count() for bits in validity.bits.values())
        assert report["bytes"]["lr_valid"] == bits * here.plugin.slot_bytes
    assert here.plugin.validity.counters.base_hit_tokens
    here.finish(choice)
    assert here.scheduler.reset_prefix_cache()
    report = here.plugin.report()
    assert (report["pages"]["cached"], report["bytes"]["lr_valid"]) == (0, 0)


def test_a_request_whose_group_was_unloaded_marks_no_page(root: Path):
    here = world(root, debug=True)
    context = [3 + i % 80 for i in range(8 * PAGE)]  # more than one step computes
    here.submit("plan", context)
    here.submit("reflect", [5])
    here.finish()
    here.submit("act", context)  # fills its slot of the pages of `plan`
    here.step()
    for number in here.ids.values():
        here.plugin.unload(number)
    here.finish()
    assert here.plugin.report()["bytes"]["lr_valid"] == 0


def test_computed_blocks_may_come_by_position(root: Path):
    here = world(root)
    here.submit("plan", CONTEXT)
    here.finish()
    request = here.submit("plan", CONTEXT)
    [made] = [r for r in here.scheduler.waiting if r.request_id == request]
    manager = here.scheduler.kv_cache_manager
    blocks, computed, _ = manager.get_computed_blocks(made)
    manager.allocate_slots(made, len(CONTEXT) - computed, computed, blocks)
    admission = here.plugin.validity.take_admissions()[request]
    assert admission.base_tokens == 3 * PAGE
    assert here.plugin.validity.counters.reused_tokens == computed == 3 * PAGE


@pytest.mark.parametrize(("limit", "reused"), [(None, 48), (47, 32), (20, 16), (1000, 48)])
def test_hits_end_where_vllm_says(limit: int | None, reused: int, root: Path):
    here = world(root)
    here.submit("plan", CONTEXT)
    here.finish()
    request = here.submit("plan", CONTEXT)
    [made] = [r for r in here.scheduler.waiting if r.request_id == request]
    blocks, computed, _ = here.plugin.validity.get_computed_blocks(made, limit)
    assert computed == reused
    assert len(blocks.blocks[0]) == 3, "the pages are held all the same, and not written"


def lose_an_owner(validity: BlockValidity) -> None:
    validity.owner.popitem()


def keep_a_page(validity: BlockValidity) -> None:
    validity.owner[0] = "group"


def count_twice(validity: BlockValidity) -> None:
    validity.valid_slots *= 2


def forget_an_end(validity: BlockValidity) -> None:
    validity._found["gone"] = (0, (), 0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lose_an_owner, "have bits and no owner"),
        (keep_a_page, r"pages \[0\] are not in vLLM's cache"),
        (count_twice, "3 slots are valid, and 6 were counted"),
        (forget_an_end, r"the ended requests \['gone'\] are still known"),
    ],
)
def test_the_option_debug_finds_faults(
    fault: Callable[[BlockValidity], None], message: str, root: Path
):
    here = world(root, debug=True)
    here.submit("plan", CONTEXT, new=3)
    here.step()
    fault(here.plugin.validity)
    with pytest.raises(PluginError, match=message):
        here.step()

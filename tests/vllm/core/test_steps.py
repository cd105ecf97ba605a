"""Step tables: pages, hits, validity bits and reference counts after each scheduler step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.vllm.core.world import PAGE, World
from tests.vllm.serving import folders, sharing

CONTEXT = [3 + i % 80 for i in range(3 * PAGE + 5)]  # three full pages and five tokens

pytestmark = pytest.mark.every_version


def world(root: Path, policy: str, kind: str = "own", pages: int = 40, **option: Any) -> World:
    adapters = folders(root, kind)
    return World(root / "llama", adapters, sharing(policy, adapters, **option), pages=pages)


def table(here: World, *requests: str) -> list[tuple[int, str, int]]:
    """(page, its validity bits, its references) for each page that the requests hold or held."""
    pages = sorted({page for r in requests for page in here.blocks_of(r)})
    pool = here.scheduler.kv_cache_manager.block_pool.blocks
    valid = here.plugin.validity.bits
    return [(p, format(valid.get(p, 0), "03b"), pool[p].ref_cnt) for p in pages]


def hits(here: World) -> tuple[int, int, int]:
    """Tokens of base hits, of LR hits and recomputed ones, so far."""
    c = here.plugin.validity.counters
    return c.base_hit_tokens, c.lr_hit_tokens, c.recomputed_tokens


def test_two_agents_on_one_prompt_shared_a(root: Path):
    here = world(root, "base+lr", "shared", slots=1)
    plan = here.submit("plan", CONTEXT, new=3)
    here.step()
    assert here.blocks_of(plan) == [1, 2, 3, 4]
    assert table(here, plan) == [(1, "001", 1), (2, "001", 1), (3, "001", 1), (4, "000", 1)]
    assert hits(here) == (0, 0, 0)
    act = here.submit("act", CONTEXT, new=2)
    output = here.step()
    assert output.num_scheduled_tokens == {plan: 1, act: 5}
    assert here.blocks_of(act) == [1, 2, 3, 5]
    assert hits(here) == (48, 48, 0)
    assert table(here, plan, act) == [
        (1, "001", 2), (2, "001", 2), (3, "001", 2), (4, "000", 1), (5, "000", 1),
    ]  # fmt: skip
    here.finish()
    assert [refs for _, _, refs in table(here, plan, act)] == [0] * 5
    assert here.memory.wrong == []


def test_two_agents_on_one_prompt_ordinary(root: Path):
    """Policy base: act holds plan's pages, computes its tokens, and fills its own slot only."""
    here = world(root, "base", "own")
    plan = here.submit("plan", CONTEXT, new=3)
    here.step()
    slot = here.bindings[plan].slot
    assert slot is not None
    bit = 1 << slot
    own = format(bit, "03b")
    assert table(here, plan) == [(1, own, 1), (2, own, 1), (3, own, 1), (4, "000", 1)]
    act = here.submit("act", CONTEXT, new=2)
    other = here.bindings[act].slot
    assert other is not None
    assert other != slot
    output = here.step()
    assert output.num_scheduled_tokens == {plan: 1, act: len(CONTEXT)}
    assert here.blocks_of(act) == [1, 2, 3, 5]
    assert hits(here) == (48, 0, 48)
    both = format(bit | 1 << other, "03b")
    assert table(here, plan, act) == [
        (1, both, 2), (2, both, 2), (3, both, 2), (4, "000", 1), (5, "000", 1),
    ]  # fmt: skip
    here.finish()
    again = here.submit("act", CONTEXT, new=1)
    output = here.step()
    assert output.num_scheduled_tokens == {again: 5}
    assert hits(here) == (96, 48, 48)
    assert here.memory.wrong == []


@pytest.mark.parametrize(("policy", "reused"), [("base+lr", 48), ("base", 0)])
def test_vllms_statistics_count_tokens_that_need_no_computation(
    policy: str, reused: int, root: Path
):
    """Not base hits, whose tokens are run again; and no lookup more than once."""
    here = world(root, policy, "own")
    for name in ("plan", "act"):
        here.submit(name, CONTEXT, new=2)
        here.finish()
    assert hits(here)[0] == 48
    assert (here.queried, here.hit) == (2 * len(CONTEXT), reused)


def test_a_page_aligned_prompt_takes_no_page_of_its_own(root: Path):
    """The last page is found too; its tokens are run again and nothing is written."""
    here = world(root, "base+lr", "shared", slots=1)
    here.submit("plan", CONTEXT[: 3 * PAGE], new=1)
    here.step()
    second = here.submit("act", CONTEXT[: 3 * PAGE], new=1)
    output = here.step()
    assert output.num_scheduled_tokens == {second: PAGE}
    assert here.blocks_of(second) == [1, 2, 3]
    assert not here.state.write_base[:PAGE].any()
    assert (here.state.slots[:PAGE] == -1).all()
    assert here.memory.wrong == []


@pytest.mark.parametrize("policy", ["base", "base+lr"])
def test_cold_requests_of_one_step(policy: str, root: Path):
    """The second one uses the pages that the first one writes in the same step."""
    here = world(root, policy, "own")
    plan, act = here.submit("plan", CONTEXT), here.submit("act", CONTEXT)
    output = here.step()
    computed = len(CONTEXT) if policy == "base" else 5
    assert output.num_scheduled_tokens[plan] == len(CONTEXT)
    # The step's budget is 96 tokens.
    assert output.num_scheduled_tokens[act] == min(computed, 96 - len(CONTEXT))
    assert here.blocks_of(act)[:3] == here.blocks_of(plan)[:3]
    here.finish()
    assert here.memory.wrong == []


def test_a_chunked_recompute_sets_bits_page_by_page(root: Path):
    here = world(root, "base", "own")
    here.submit("plan", CONTEXT)
    act = here.submit("act", CONTEXT)
    here.step()
    bit = 1 << (here.bindings[act].slot or 0)
    valid = here.plugin.validity.bits
    assert [bool(valid[page] & bit) for page in (1, 2, 3)] == [True, True, False]  # 43 tokens
    here.step()
    assert [bool(valid[page] & bit) for page in (1, 2, 3)] == [True, True, True]
    assert here.memory.wrong == []


def test_preemption_keeps_what_survives(root: Path):
    here = world(root, "base", "own", pages=7)
    plan = here.submit("plan", CONTEXT, new=20)
    act = here.submit("act", [90 - t for t in CONTEXT[: 2 * PAGE]], new=40)
    for _ in range(60):
        here.step()
        if here.preempted:
            break
    assert here.preempted == 1
    pool = here.scheduler.kv_cache_manager.block_pool.blocks
    own = 1 << (here.bindings[act].slot or 0)
    kept = [p for p in here.blocks_of(act)[:2] if here.plugin.validity.bits.get(p, 0) & own]
    assert kept, "the preempted request's pages were meant to survive with their bits"
    assert all(pool[page].ref_cnt == 0 for page in kept)
    here.finish()
    assert here.memory.wrong == []
    assert hits(here)[1] > 0, "on its return the request was meant to find its own slot again"
    assert sum(block.ref_cnt for block in pool if not block.is_null) == 0
    assert len(here.tokens_of(plan)) == len(CONTEXT) + 20


@pytest.mark.parametrize("policy", ["base", "base+lr"])
def test_reload_under_one_name(policy: str, root: Path):
    """Other weights under a member's name end the group's pages; the others' come anew too."""
    here = world(root, policy, "own")
    here.submit("plan", CONTEXT)
    here.finish()
    old = here.plugin.registry.bind_base_model(), here.bindings["plan-1"].sharer
    here.adapters["plan"], here.ids["plan"] = root / "shared" / "reflect", 9
    new = here.submit("plan", CONTEXT)
    output = here.step()
    assert output.num_scheduled_tokens == {new: len(CONTEXT)}
    assert here.bindings[new].sharer != old[1]
    assert hits(here) == (0, 0, 0)
    act = here.submit("act", CONTEXT)
    here.finish()
    assert here.bindings[act].sharer == here.bindings[new].sharer
    assert hits(here)[0] == 48
    assert here.memory.wrong == []


def test_unload_frees_pages_and_says_how_much(root: Path):
    here = world(root, "isolated", "own")
    request = here.submit("plan", CONTEXT)
    here.finish()
    here.step()
    pool = here.scheduler.kv_cache_manager.block_pool
    assert len(pool.cached_block_hash_to_block) == 3
    content, freed = here.plugin.unload(here.ids["plan"])
    assert content is here.bindings[request].adapter
    assert freed == 3 * here.plugin.page_bytes
    assert len(pool.cached_block_hash_to_block) == 0
    assert here.submit("plan", CONTEXT)
    here.finish()
    assert hits(here) == (0, 0, 0)


def test_an_unload_in_use_lets_the_request_end(root: Path):
    here = world(root, "isolated", "own")
    request = here.submit("plan", CONTEXT, new=6)
    here.step()
    here.plugin.unload(here.ids["plan"])
    folder = here.bindings[request].adapter
    assert folder is not None
    assert Path(folder.folder).is_dir(), "workers may still need the copy"
    here.finish()
    assert len(here.tokens_of(request)) == len(CONTEXT) + 6
    assert here.memory.wrong == []


def test_a_page_whose_last_token_was_scheduled_before_it_was_known(root: Path):
    """vLLM publishes such a page when the token is there; its validity bits come with it."""
    adapters = folders(root, "shared")
    option = sharing("base+lr", adapters, slots=1)
    here = World(root / "llama", adapters, option, pages=40, ahead=True)
    new = 4
    tokens = CONTEXT[: 2 * PAGE + 1 - new]  # the token before the last one fills the second page
    plan = here.submit("plan", tokens, new)
    ahead = [here.scheduler.schedule()]
    for _ in range(new):
        ahead.append(here.scheduler.schedule())
        here.update(ahead.pop(0), [[7]])
    assert not here.scheduler.has_unfinished_requests()
    act = here.submit("act", [*here.tokens_of(plan), 9], new=1)
    output = here.scheduler.schedule()
    assert output.num_scheduled_tokens == {act: 2}
    assert hits(here) == (2 * PAGE, 2 * PAGE, 0)

"""Faults that tests plant in the package, and nothing else can: each is a patch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.planted import Fault

from lragent.adapters.errors import AdapterError
from lragent.cache import client as client_module
from lragent.cache import manager as manager_module
from lragent.cache import prefix_index as index_module
from lragent.cache.client import CacheClient
from lragent.cache.keys import KeyScope, packed_page_key, root_key
from lragent.cache.lease import Lease
from lragent.cache.manager import CacheManager, Freed
from lragent.cache.page import Page
from lragent.cache.pool import HandedOut, PagePool
from lragent.cache.prefix_index import PrefixIndex
from lragent.cache.sharing_reasons import SeenPrompts
from lragent.engine import step_builder
from lragent.engine.lora_bank import LoraBank
from lragent.engine.scheduler import Scheduled
from lragent.sharing import bindings as bindings_module
from lragent.sharing import group as group_module
from lragent.sharing import groups as groups_module
from lragent.sharing.bindings import Binding, alone
from lragent.sharing.group import Group
from lragent.sharing.slots import plan_slots

Patch = pytest.MonkeyPatch


def _key_without(field: str) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        def poor(scope: KeyScope) -> bytes:
            return root_key(replace(scope, **{field: ""}))

        patch.setattr(client_module, "root_key", poor)

    return plant


def _key_without_parent(patch: Patch) -> None:
    def poor(parent: bytes, packed: bytes) -> bytes:
        return packed_page_key(b"", packed)

    for module in (manager_module, index_module):
        patch.setattr(module, "packed_page_key", poor)


def _names_for_contents(patch: Patch) -> None:
    def by_name(name: str | None, adapter: Any) -> Binding[Any]:
        binding = alone(name, adapter)
        return binding if name is None else replace(binding, sharer=f"adapter:{name}")

    for module in (bindings_module, group_module, groups_module):
        patch.setattr(module, "alone", by_name)


def _group_outlives_its_weights(patch: Patch) -> None:
    join = Group.join

    def forgetful(group: Group[Any], *args: Any) -> None:
        group._digest_of.clear()
        join(group, *args)

    patch.setattr(Group, "join", forgetful)


def _slots_are_dealt_anew(patch: Patch) -> None:
    def anew(policy: Any, adapters: Any, taken: Any = None) -> dict[str, int]:
        return plan_slots(policy, adapters)

    patch.setattr(group_module, "plan_slots", anew)


def _refused_load_ends_pages(patch: Patch) -> None:
    join = Group.join

    def hasty(group: Group[Any], adapters: Mapping[str, Any], *args: Any) -> None:
        try:
            join(group, adapters, *args)
        except AdapterError:
            group._generation += 1
            group._sharer = None
            raise

    patch.setattr(Group, "join", hasty)


def _bits_survive_reuse(patch: Patch) -> None:
    def unpublish(page: Page) -> None:
        page.key, page.tokens, page.scope = None, b"", None

    patch.setattr(Page, "unpublish", unpublish)


def _one_page_too_many(patch: Patch) -> None:
    match = PrefixIndex.match

    def greedy(index: PrefixIndex, root: bytes, tokens: Sequence[int]) -> list[Page]:
        pages = match(index, root, tokens)
        if pages and len(pages) < len(tokens) // index._page_size:
            others = [page for _, page in index.items() if page not in pages]
            pages += others[:1]
        return pages

    patch.setattr(PrefixIndex, "match", greedy)


def _leased_pages_are_evicted(patch: Patch) -> None:
    def lease(pool: PagePool, page: Page) -> None:
        page.refs += 1  # and stays among the idle

    patch.setattr(PagePool, "lease", lease)


def _pages_are_freed_while_shared(patch: Patch) -> None:
    def unlease(pool: PagePool, page: Page) -> None:
        page.refs = 0
        if page.key is None:
            pool._give_back(page)
        else:
            pool.idle[page.id] = page

    patch.setattr(PagePool, "unlease", unlease)


def _prefixes_are_evicted_first(patch: Patch) -> None:
    def release(manager: CacheManager, lease: Lease) -> None:
        manager._leases.remove(lease)
        for page_id in lease.pages:
            manager._pool.unlease(manager._pool.pages[page_id])
        lease.pages.clear()

    patch.setattr(CacheManager, "release", release)


def _failed_allocation_disturbs(patch: Patch) -> None:
    hand_out = PagePool.hand_out

    def leaky(pool: PagePool, count: int, after: int | None = None) -> HandedOut:
        try:
            return hand_out(pool, count, after)
        except Exception:
            if pool.idle:
                pool.idle.move_to_end(next(iter(pool.idle)))
            raise

    patch.setattr(PagePool, "hand_out", leaky)


def _bits_before_the_page_is_written(patch: Patch) -> None:
    commit = CacheManager.commit

    def early(manager: CacheManager, lease: Lease, tokens: Sequence[int], computed: int) -> None:
        commit(manager, lease, tokens, computed)
        for page_id in lease.pages[: lease.base_tokens // manager.page_size]:
            page = manager._pool.pages[page_id]
            page.valid |= lease.client.filled_mask if page.key is not None else 0

    patch.setattr(CacheManager, "commit", early)


def _unloaded_pages_come_back(patch: Patch) -> None:
    forget = CacheManager.forget

    def attached(manager: CacheManager, sharer: str, tenant: str | None = None) -> Freed:
        freed = forget(manager, sharer, tenant)
        for lease in manager._leases:
            lease.detached = False
        return freed

    patch.setattr(CacheManager, "forget", attached)


def _reset_keeps_the_pool(patch: Patch) -> None:
    def reset(manager: CacheManager) -> None:
        for lease in list(manager._leases):
            manager.release(lease)
        for page in list(manager._pool.idle.values()):
            manager._index.drop(page)
            manager._pool.discard(page)

    patch.setattr(CacheManager, "reset", reset)


def _last_token_is_not_computed(patch: Patch) -> None:
    admit = CacheManager.admit

    def lazy(manager: CacheManager, *args: Any) -> Lease:
        lease = admit(manager, *args)
        lease.computed_tokens = lease.committed = min(lease.base_tokens, lease.lr_tokens)
        return lease

    patch.setattr(CacheManager, "admit", lazy)


def _turn_pages_are_published(patch: Patch) -> None:
    commit = CacheManager.commit

    def all_public(
        manager: CacheManager, lease: Lease, tokens: Sequence[int], computed: int
    ) -> None:
        lease.shareable = None
        commit(manager, lease, tokens, computed)

    patch.setattr(CacheManager, "commit", all_public)


def _adapter_reads_the_context(patch: Patch) -> None:
    patch.setattr(Binding, "base_reads", property(lambda binding: False))


def _adapter_acts_in_the_context(patch: Patch) -> None:
    rows_of = step_builder.rows_of

    def early(item: Scheduled, bank: LoraBank) -> list[step_builder.Row]:
        adapter = bank.index(item.request.binding.adapter)
        return [row._replace(adapter=adapter) for row in rows_of(item, bank)]

    patch.setattr(step_builder, "rows_of", early)


def _turn_reads_no_slot(patch: Patch) -> None:
    rows_of = step_builder.rows_of

    def blind(item: Scheduled, bank: LoraBank) -> list[step_builder.Row]:
        return [row._replace(slot=-1) for row in rows_of(item, bank)]

    patch.setattr(step_builder, "rows_of", blind)


def _slot_of_a_new_a_is_valid(patch: Patch) -> None:
    patch.setattr(CacheClient, "needed_mask", property(lambda client: 0))


def _acts_too_early(patch: Patch) -> None:
    def first(adapter: Any, prompt: Sequence[int]) -> int | None:
        size = 1 if adapter.acting_tokens is None else len(adapter.acting_tokens)
        wanted = [prompt[-1]] if adapter.acting_tokens is None else list(adapter.acting_tokens)
        starts = range(len(prompt) - size + 1)
        return next((i for i in starts if list(prompt[i : i + size]) == wanted), None)

    patch.setattr(bindings_module, "context_tokens", first)


def _leases_are_kept(patch: Patch) -> None:
    release = CacheManager.release
    kept: list[Lease] = []

    def hoarding(manager: CacheManager, lease: Lease) -> None:
        release(manager, lease)
        kept.append(lease)

    patch.setattr(CacheManager, "release", hoarding)


def _series_by_request(patch: Patch) -> None:
    def explain(seen: SeenPrompts, client: CacheClient, packed: bytes) -> str:
        return f"not seen: {packed.hex()}"

    patch.setattr(SeenPrompts, "explain", explain)


def _evicts_by_chance(patch: Patch) -> None:
    hand_out = PagePool.hand_out

    def careless(pool: PagePool, count: int, after: int | None = None) -> HandedOut:
        if pool.idle and count <= pool.available:
            pool.idle.move_to_end(random.choice([*pool.idle]), last=False)
        return hand_out(pool, count, after)

    patch.setattr(PagePool, "hand_out", careless)


MACHINE, ENGINE, SOAK = "model-based test", "dense reference", "simulation"

FAULTS: dict[str, Fault] = {
    "key-without-sharer": Fault(
        "page keys leave the sharer out", _key_without("sharer"), (MACHINE,)
    ),
    "key-without-tenant": Fault(
        "page keys leave the tenant out", _key_without("tenant"), (MACHINE,)
    ),
    "key-without-parent": Fault(
        "page keys leave the tokens before the page out", _key_without_parent, (MACHINE,)
    ),
    "names-for-contents": Fault(
        "an adapter's name stands for its contents", _names_for_contents, (MACHINE,)
    ),
    "group-outlives-its-weights": Fault(
        "a group keeps its pages when a member's weights are replaced",
        _group_outlives_its_weights,
        (MACHINE,),
    ),
    "slots-dealt-anew": Fault(
        "slots are numbered anew when a member joins", _slots_are_dealt_anew, (MACHINE,)
    ),
    "refused-load-ends-pages": Fault(
        "a refused load ends the group's pages", _refused_load_ends_pages, (MACHINE,)
    ),
    "bits-survive-reuse": Fault(
        "validity bits stay when a page is handed out again",
        _bits_survive_reuse,
        (MACHINE,),
    ),
    "one-page-too-many": Fault(
        "a hit reaches one page further than the tokens agree", _one_page_too_many, (MACHINE,)
    ),
    "leased-pages-evicted": Fault(
        "pages in use can be evicted",
        _leased_pages_are_evicted,
        (MACHINE,),
    ),
    "freed-while-shared": Fault(
        "the first of two holders frees a page", _pages_are_freed_while_shared, (MACHINE,)
    ),
    "prefixes-evicted-first": Fault(
        "the beginning of a sequence is evicted before its end",
        _prefixes_are_evicted_first,
        (MACHINE,),
    ),
    "failed-allocation-disturbs": Fault(
        "a failed allocation changes the order of eviction",
        _failed_allocation_disturbs,
        (MACHINE,),
    ),
    "bits-before-writing": Fault(
        "a slot counts as valid on a page that was skipped",
        _bits_before_the_page_is_written,
        (MACHINE,),
    ),
    "unloaded-pages-come-back": Fault(
        "a request whose adapter was unloaded goes on publishing",
        _unloaded_pages_come_back,
        (MACHINE,),
    ),
    "reset-keeps-the-pool": Fault(
        "recovery releases the leases of books that an interrupt left in doubt",
        _reset_keeps_the_pool,
        (MACHINE,),
    ),
    "last-token-skipped": Fault(
        "the last prompt token of a full hit is not computed",
        _last_token_is_not_computed,
        (MACHINE,),
    ),
    "neutral-turn-published": Fault(
        "`neutral`: a page with a token of a turn is published",
        _turn_pages_are_published,
        (MACHINE, ENGINE),
    ),
    "neutral-reader-on": Fault(
        "`neutral`: the reader's adapter computes the context",
        _adapter_reads_the_context,
        (MACHINE, ENGINE),
    ),
    "neutral-adapter-in-context": Fault(
        "`neutral`: the adapter is on in the rows of the context",
        _adapter_acts_in_the_context,
        (ENGINE,),
    ),
    "neutral-no-slot": Fault(
        "`neutral`: the turn reads the context without its slot", _turn_reads_no_slot, (ENGINE,)
    ),
    "neutral-new-a-valid": Fault(
        "`neutral`: the slot of a new A is taken as valid",
        _slot_of_a_new_a_is_valid,
        (MACHINE, ENGINE),
    ),
    "acts-too-early": Fault(
        "the turn begins at the first acting tokens, not at the last",
        _acts_too_early,
        (MACHINE,),
    ),
    "leases-kept": Fault("leases are kept after their end", _leases_are_kept, (SOAK,)),
    "series-by-request": Fault(
        "a metric has a label of its own for each prompt", _series_by_request, (SOAK,)
    ),
    "evicts-by-chance": Fault(
        "which page is evicted is left to chance", _evicts_by_chance, (MACHINE, SOAK)
    ),
}

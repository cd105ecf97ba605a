"""A Hypothesis state machine that drives the cache manager beside the reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.model_based.memory import Memory
from tests.model_based.reference import Held, Reference
from tests.model_based.world import NAMES, RELOADABLE, SLOTS, World

from lragent.cache import CacheManager, CacheStats, Lease, OutOfPages

PAGES, PAGE_SIZE = 24, 2
MAX_TOKENS = 14
MAX_LIVE = 5  # more requests than that finish the oldest, or nothing would ever be published

# Two tokens only, so that prompts of unrelated requests often begin alike.
token = st.integers(0, 1)
prompt = st.lists(token, min_size=3, max_size=9)
more = st.lists(token, max_size=4)
chunks = st.integers(1, 8)
# Mostly one tenant, or hits would be rare.
tenants = st.sampled_from(["", "", "", "red", "blue"])
groups = st.sampled_from(["iso", "bare", "full", "base", "lr", "neutral"])
pick = st.integers(0, 1 << 16)


class InjectedError(Exception):
    """What the injected failure raises."""


class CacheMachine(RuleBasedStateMachine):
    """Every rule is one thing that an engine or an operator does.

    ``events`` counts over all runs what happened, so that a test can see that it did happen.
    """

    events: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.fail_in = 0
        self.manager = CacheManager(
            PAGES, PAGE_SIZE, 1000, 100, slots=SLOTS, allocation_hook=self._allocating
        )
        self.world = World()
        self.memory = Memory(PAGE_SIZE)
        self.reference = Reference(PAGES, PAGE_SIZE)
        self.leases: dict[Held, Lease] = {}
        self.histories: list[list[int]] = [[0] * PAGE_SIZE]

    # What requests do

    @rule(name=st.sampled_from(NAMES), tenant=tenants, tokens=prompt)
    def admit(self, name: str, tenant: str, tokens: list[int]) -> None:
        if name in self.world.loaded:
            self._admit(name, tenant, tokens)

    @rule(group=groups, member=pick, tenant=tenants, which=pick, more=more, chunk=chunks)
    def hand_over(
        self, group: str, member: int, tenant: str, which: int, more: list[int], chunk: int
    ) -> None:
        """Another agent goes on where one left off, or repeats it (``more`` is empty), and runs its
        first chunk."""
        history = self.histories[-1 - which % min(6, len(self.histories))]
        names = [n for n in NAMES if n.startswith(group) and n in self.world.loaded]
        if names:
            tokens = (history + more)[:MAX_TOKENS]
            held = self._admit(names[member % len(names)], tenant, tokens)
            self._compute(held, min(held.done + chunk, len(tokens)))

    @rule(group=groups, tokens=prompt, chunk=chunks)
    def workflow(self, group: str, tokens: list[int], chunk: int) -> None:
        """Each agent of a group takes its turn on one growing trajectory, in chunks."""
        for name in NAMES:
            if name.startswith(group) and name in self.world.loaded:
                held = self._admit(name, "", tokens)
                while held.done < len(tokens):
                    if not self._compute(held, min(held.done + chunk, len(tokens))):
                        break
                    self.contents_are_true()
                self._release(held)
                tokens = [*tokens, 1][:MAX_TOKENS]

    @rule(group=groups, tokens=prompt, first=pick)
    def race(self, group: str, tokens: list[int], first: int) -> None:
        """Two agents of a group start on one prompt, neither sees the other's pages."""
        names = [n for n in NAMES if n.startswith(group) and n in self.world.loaded]
        for i in range(first, first + 2 if names else first):
            self._admit(names[i % len(names)], "", tokens)

    @precondition(lambda self: self.leases)
    @rule(which=pick, count=chunks)
    def extend(self, which: int, count: int) -> None:
        held = self._held(which)
        self._extend(held, min(len(held.pages) * PAGE_SIZE + count, MAX_TOKENS))

    @precondition(lambda self: self.leases)
    @rule(which=pick, count=chunks, new=token)
    def compute(self, which: int, count: int, new: int) -> None:
        """A prefill chunk of the prompt, or, at its end, one decoded token."""
        held = self._held(which)
        if held.done == len(held.tokens) and len(held.tokens) < MAX_TOKENS:
            held.tokens.append(new)
        self._compute(held, min(held.done + count, len(held.tokens)))

    @precondition(lambda self: self.leases)
    @rule(which=pick)
    def compute_all(self, which: int) -> None:
        held = self._held(which)
        self._compute(held, len(held.tokens))

    @precondition(lambda self: self.leases)
    @rule(which=pick)
    def finish(self, which: int) -> None:
        held = self._held(which)
        self._compute(held, len(held.tokens))
        self._release(held)

    @precondition(lambda self: self.leases)
    @rule(which=pick, uncommitted=st.integers(0, 6))
    def abort(self, which: int, uncommitted: int) -> None:
        """Dies after writing into its pages, before the commit."""
        held = self._held(which)
        room = len(held.pages) * PAGE_SIZE
        self._write(held, min(held.done + uncommitted, len(held.tokens), room))
        self._release(held)

    # What happens to the pool

    @rule(share=st.integers(1, 4))
    def pressure(self, share: int) -> None:
        """One request takes a part of the pages there are, or all, and goes."""
        held = self._admit("bare", "pressure", [1])
        self._extend(held, self.reference.available() * PAGE_SIZE * share // 4)
        self._release(held)

    @precondition(lambda self: self.leases)
    @rule(which=pick, beyond=st.integers(1, 3))
    def ask_too_much(self, which: int, beyond: int) -> None:
        held = self._held(which)
        pages = len(held.pages) + self.reference.available() + beyond
        assert not self._extend(held, pages * PAGE_SIZE), "got more pages than there are"

    @precondition(lambda self: self.leases)
    @rule(which=pick, count=st.integers(1, 6), nth=st.integers(1, 6))
    def failing_allocation(self, which: int, count: int, nth: int) -> None:
        held = self._held(which)
        available = self.reference.available()
        if available == 0:
            return
        count = min(count, available)
        before = self._books()
        self.fail_in = min(nth, count)
        try:
            self.manager.extend(self.leases[held], (len(held.pages) + count) * PAGE_SIZE)
        except InjectedError:
            pass
        else:
            raise AssertionError("the injected failure was swallowed")
        finally:
            self.fail_in = 0
        assert self._books() == before, "a failed extend left traces"
        self.events["failed allocation"] += 1

    # What operators do

    @rule(name=st.sampled_from(RELOADABLE), version=st.integers(0, 1))
    def load_or_reload(self, name: str, version: int) -> None:
        """Other weights under the name, or old ones again. Nothing is forgotten: the keys alone
        must tell them apart."""
        self.world.version[name] = version
        self.world.loaded.add(name)

    @rule(name=st.sampled_from(RELOADABLE), tenant=st.sampled_from([None, "", "red"]))
    def unload(self, name: str, tenant: str | None) -> None:
        if name in self.world.loaded:
            self._forget(self.world.sharer(name), tenant)
            self.world.loaded.remove(name)

    @precondition(lambda self: self.leases)
    @rule(which=pick, count=chunks)
    def reload_while_running(self, which: int, count: int) -> None:
        """The same weights unloaded and loaded under a running request, which goes on."""
        held = self._held(which)
        self._forget(held.spec.sharer, None)
        self.compute(which, count, 0)

    # What must hold after every step

    @invariant()
    def books_balance(self) -> None:
        self.manager.check_integrity()
        stats, reference = self.manager.stats(), self.reference
        held = {page for one in reference.live for page in one.pages}
        assert stats.pages_leased == len(held), "stats.pages_leased"
        assert stats.pages_idle == len(reference.idle), "stats.pages_idle"
        assert stats.pages_free == PAGES - len(held) - len(reference.idle), "stats.pages_free"
        for page in self.manager._pool.pages:
            assert page.refs == reference.holders(page.id), f"holders of page {page.id}"

    @invariant()
    def contents_are_true(self) -> None:
        reference = self.reference
        for page in self.manager._pool.pages:
            bits = {slot for slot in range(SLOTS) if page.valid >> slot & 1}
            published = page.id in reference.prefix_of
            assert (page.key is not None) == published, f"published or not: page {page.id}"
            assert bits == reference.valid.get(page.id, set()), f"validity bits of page {page.id}"
            if published:
                self.memory.check_published(page.id, reference.prefix_of[page.id][0], bits)
                assert page.scope is not None, f"no scope: page {page.id}"

    @invariant()
    def tenants_are_apart(self) -> None:
        tenant_of: dict[int, str] = {}
        for held, lease in self.leases.items():
            for page in lease.pages:
                tenant = tenant_of.setdefault(page, held.spec.tenant)
                assert tenant == held.spec.tenant, f"page {page} is shared across tenants"

    @rule()
    def drain(self) -> None:
        for held in list(self.leases):
            self._release(held)
        assert self.manager.stats().pages_leased == 0, "pages stay leased without a lease"

    # Helpers

    def _allocating(self) -> None:
        if self.fail_in:
            self.fail_in -= 1
            if not self.fail_in:
                raise InjectedError

    def _held(self, which: int) -> Held:
        return self.reference.live[which % len(self.reference.live)]

    def _admit(self, name: str, tenant: str, tokens: list[int]) -> Held:
        if len(self.leases) == MAX_LIVE:
            self.finish(0)
        spec = self.world.spec(name, tenant)
        lease = self.manager.admit(spec.client, tokens, spec.context(tokens))
        self.memory.check_hits(spec, lease, tokens)
        held = self.reference.admit(spec, tokens)
        found = (lease.pages, lease.base_tokens, lease.lr_tokens, lease.computed_tokens)
        wanted = (held.pages, held.base, held.lr, held.done)
        assert found == wanted, f"admit gives {found}, should give {wanted}"
        assert lease.computed_tokens < len(tokens), "the last token's output is wanted"
        assert (lease.not_shared is None) == bool(held.pages), lease.not_shared
        self.leases[held] = lease
        self.histories.append(held.tokens)
        self.events[f"{spec.policy.value} hit" if held.pages else "miss"] += 1
        self.events["lr behind base"] += held.lr < held.base
        return held

    def _extend(self, held: Held, num_tokens: int) -> bool:
        lease, missing = self.leases[held], self.reference.missing(held, num_tokens)
        before = self._books()
        try:
            self.manager.extend(lease, num_tokens)
        except OutOfPages:
            assert missing > self.reference.available(), "OutOfPages although there are pages"
            assert self._books() == before, "OutOfPages left traces"
            self.events["out of pages"] += 1
            return False
        assert missing <= self.reference.available(), "more pages than there are"
        new_pages = lease.pages[len(held.pages) :]
        assert len(new_pages) == missing, f"{len(new_pages)} new pages, not {missing}"
        self.events["eviction"] += self.manager.stats().evictions > before[-1].evictions
        self.reference.extend(held, new_pages)
        assert lease.pages == held.pages, "extend changed the pages it had"
        return True

    def _compute(self, held: Held, upto: int) -> bool:
        if not self._extend(held, upto):
            return False
        self._write(held, upto)
        self.manager.commit(self.leases[held], held.tokens, upto)
        self.events["commit of a forgotten lease"] += held.detached
        for event in self.reference.commit(held, upto):
            self.events[event] += 1
        return True

    def _forget(self, sharer: str, tenant: str | None) -> None:
        expected = self.reference.forget(sharer, tenant)
        freed = self.manager.forget(sharer, tenant)
        assert freed == (expected, expected * 1000), f"forget freed {freed}, not {expected}"
        self.events["unload frees pages"] += expected > 0

    def _write(self, held: Held, upto: int) -> None:
        lease = self.leases[held]
        self.memory.write(held, lease, upto)

    def _release(self, held: Held) -> None:
        self.manager.release(self.leases.pop(held))
        self.reference.release(held)

    def _books(self) -> tuple[Sequence[object], Sequence[int], Sequence[object], CacheStats]:
        pool = self.manager._pool
        pages = [(p.refs, p.key, p.tokens, p.valid, pool.is_free(p.id)) for p in pool.pages]
        leases = [list(lease.pages) for lease in self.leases.values()]
        return pages, list(pool.idle), leases, self.manager.stats()

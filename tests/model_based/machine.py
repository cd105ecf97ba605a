"""A Hypothesis state machine that drives cache and groups beside the reference."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.interrupt import interrupted
from tests.model_based.books import Books, EmbeddedBooks
from tests.model_based.memory import Memory
from tests.model_based.reference import NEVER, Owner, Reference, Request
from tests.model_based.world import NAMES, SLOTS, TEAMS, Adapter, Team, adapter, key_of

from lragent.sharing import Binding

MAX_TOKENS = 14
MAX_LIVE = 5  # more requests than that finish the oldest, or nothing would ever be published

# Two tokens only, so that prompts of unrelated requests often begin alike.
token = st.integers(0, 1)
prompt = st.lists(token, min_size=3, max_size=9)
more = st.lists(token, max_size=4)
chunks = st.integers(1, 8)
# Mostly one tenant, or hits would be rare.
tenants = st.sampled_from(["", "", "", "red", "blue"])
teams = st.sampled_from([None, *TEAMS])
names = st.sampled_from(list(NAMES))
versions = st.sampled_from([0, 0, 0, 1, 2])
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

    def make_books(self, teams: dict[str, Team]) -> Books:
        self.embedded = EmbeddedBooks(teams, self._allocating)
        return self.embedded

    @initialize(with_base=teams, absent=st.sets(names, max_size=4))
    def start(self, with_base: str | None, absent: set[str]) -> None:
        declared = {name: Team(policy, name == with_base) for name, policy in TEAMS.items()}
        self.books = self.make_books(declared)
        self.memory = Memory(self.books.page_size)
        self.reference = Reference(declared, SLOTS, self.books)
        self.bindings: dict[Request, Binding[Adapter]] = {}
        self.writes_from: dict[Request, dict[int, int]] = {}
        self.waiting: list[Request] = []
        self.histories: list[list[int]] = [[0] * self.books.page_size]
        self.sharer_of: dict[Owner, str] = {}
        self.key_of_slot: dict[tuple[Owner, int], str] = {}
        for name, (team, _) in NAMES.items():
            if name not in absent:
                self._put(name, 0, team)

    # What requests do

    @rule(name=names, tenant=tenants, tokens=prompt)
    def admit(self, name: str, tenant: str, tokens: list[int]) -> None:
        if name in self.reference.loaded:
            self._admit(name, tenant, tokens)

    @rule(team=teams, member=pick, tenant=tenants, which=pick, more=more, chunk=chunks)
    def hand_over(
        self, team: str | None, member: int, tenant: str, which: int, more: list[int], chunk: int
    ) -> None:
        """Another agent goes on where one left off, or repeats it (``more`` is empty), and runs its
        first chunk."""
        history = self.histories[-1 - which % min(6, len(self.histories))]
        if members := self._members(team):
            tokens = (history + more)[:MAX_TOKENS]
            request = self._admit(members[member % len(members)], tenant, tokens)
            self._chunk(request, chunk)

    @rule(team=teams, tokens=prompt, chunk=chunks)
    def workflow(self, team: str | None, tokens: list[int], chunk: int) -> None:
        """Each agent of a group takes its turn on one growing trajectory, in chunks; the first one
        twice."""
        members = self._members(team)
        for name in members + members[:1]:
            request = self._admit(name, "", tokens)
            while request in self.reference.live and request.done < len(tokens):
                if not self._chunk(request, chunk):
                    break
                self.contents_are_true()
            self._end(request)
            tokens = [*tokens, 1][:MAX_TOKENS]

    @rule(team=teams, tokens=prompt, first=pick)
    def race(self, team: str | None, tokens: list[int], first: int) -> None:
        """Two agents of a group start on one prompt, neither sees the other's pages."""
        members = self._members(team)
        for i in range(first, first + 2 if members else first):
            self._admit(members[i % len(members)], "", tokens)

    @precondition(lambda self: self.reference.live)
    @rule(which=pick, new=token, chunk=chunks)
    def fork(self, which: int, new: int, chunk: int) -> None:
        """A second sample of a request, which goes its own way from here on."""
        one = self._pick(which)
        tokens = [*one.tokens, new][:MAX_TOKENS]
        twin = Request(one.spec, one.tenant, tokens, one.prompt, one.context)
        self._enter(twin, self.bindings[one])
        self._chunk(twin, chunk)
        self.events["fork"] += 1

    @precondition(lambda self: self.reference.live)
    @rule(which=pick, count=chunks, new=token)
    def compute(self, which: int, count: int, new: int) -> None:
        """A prefill chunk of the prompt, or, at its end, one decoded token."""
        request = self._pick(which)
        if request.done == len(request.tokens) and len(request.tokens) < MAX_TOKENS:
            request.tokens.append(new)
        self._chunk(request, count)

    @precondition(lambda self: self.reference.live)
    @rule(which=pick)
    def finish(self, which: int) -> None:
        request = self._pick(which)
        self._chunk(request, MAX_TOKENS)
        self._end(request)

    @precondition(lambda self: self.reference.live)
    @rule(which=pick, uncommitted=st.integers(0, 6))
    def abort(self, which: int, uncommitted: int) -> None:
        """Dies after writing into its pages, before the commit."""
        request = self._pick(which)
        self.events["abort in prefill"] += request.done < len(request.tokens)
        room = len(request.pages) * self.books.page_size
        self._write(request, min(request.done + uncommitted, len(request.tokens), room))
        self._end(request)

    @precondition(lambda self: self.reference.live)
    @rule(which=pick)
    def preempt(self, which: int) -> None:
        request = self._pick(which)
        self._release(request)
        self.waiting.append(request)

    @precondition(lambda self: self.waiting)
    @rule(which=pick, chunk=chunks)
    def resume(self, which: int, chunk: int) -> None:
        """Comes back with what it generated; its context ends where it ended."""
        request = self.waiting.pop(which % len(self.waiting))
        binding = self.bindings.pop(request)
        again = replace(request, pages=[], detached=False)
        self._enter(again, binding)
        self._chunk(again, chunk)
        self.events["resumed"] += 1

    # What happens to the pool

    @rule(share=st.integers(1, 4))
    def pressure(self, share: int) -> None:
        """One request takes a part of the pages there are, or all, and goes."""
        request = self._admit(None, "pressure", [0])
        self._extend(request, self.reference.available() * share // 4 * self.books.page_size)
        self._end(request)

    @precondition(lambda self: self.reference.live)
    @rule(which=pick, count=chunks)
    def extend(self, which: int, count: int) -> None:
        request = self._pick(which)
        room = len(request.pages) * self.books.page_size
        self._extend(request, min(room + count, MAX_TOKENS))

    @precondition(lambda self: self.reference.live)
    @rule(which=pick, beyond=st.integers(1, 3))
    def ask_too_much(self, which: int, beyond: int) -> None:
        request = self._pick(which)
        pages = len(request.pages) + self.reference.available() + beyond
        before = self.embedded.state()
        assert not self._extend(request, pages * self.books.page_size), "more than there are"
        assert self.embedded.state() == before, "OutOfPages left traces"

    @precondition(lambda self: self.reference.live)
    @rule(which=pick, count=st.integers(1, 6), nth=st.integers(1, 6))
    def failing_allocation(self, which: int, count: int, nth: int) -> None:
        request = self._pick(which)
        count = min(count, self.reference.available())
        if count == 0:
            return
        before = self.embedded.state()
        with self._failing(min(nth, count)) as failed:
            self.embedded.extend(request, (len(request.pages) + count) * self.books.page_size)
        assert failed, "the injected failure was swallowed"
        assert self.embedded.state() == before, "a failed extend left traces"
        self.events["failed allocation"] += 1

    @rule(
        kind=st.sampled_from(["admit", "compute", "finish", "put", "remove", "reset"]),
        which=pick, name=names, version=versions, team=teams, tokens=prompt,
        line=st.integers(1, 20) | st.integers(1, 90), again=st.integers(1, 20),
    )  # fmt: skip
    def interrupt(
        self, kind: str, which: int, name: str, version: int, team: str | None, tokens: list[int],
        line: int, again: int,
    ) -> None:  # fmt: skip
        """KeyboardInterrupt at a line of one operation, and at one of the recovery.

        As an engine does: the cache is emptied, the requests wait to be computed again, and what an
        operator asked for is asked for once more.
        """
        operations: dict[str, Callable[[], object]] = {
            "admit": lambda: self._admit(None, "", tokens),
            "compute": lambda: self.reference.live and self.compute(which, 8, 0),
            "finish": lambda: self.reference.live and self._end(self._pick(which)),
            "put": lambda: self._put(name, version, team),
            "remove": lambda: self._remove(name),
            "reset": self.books.reset,
        }
        try:
            with interrupted(line):
                operations[kind]()
            if kind != "reset":
                return
        except KeyboardInterrupt:
            self.events[f"interrupted {kind}"] += 1
        try:
            with interrupted(again):
                self.books.reset()
        except KeyboardInterrupt:
            self.books.reset()
        self._lost_all()
        if kind == "put":
            self._put(name, version, team, again=True)
        elif kind == "remove":
            self._remove(name, again=True)

    # What operators do

    @rule(name=names, version=versions)
    def load_or_reload(self, name: str, version: int) -> None:
        """Other weights under the name, or old ones again, where it was or begins."""
        _, team = self.reference.loaded.get(name, (None, NAMES[name][0]))
        self._put(name, version, team)

    @rule(name=names, version=versions, team=teams)
    def change_policy(self, name: str, version: int, team: str | None) -> None:
        """Into another group, or out of all."""
        self._put(name, version, team)

    @rule(name=names)
    def unload(self, name: str) -> None:
        self._remove(name)

    @precondition(lambda self: self.reference.live)
    @rule(which=pick, count=chunks)
    def leave_while_running(self, which: int, count: int) -> None:
        """A request's adapter goes, and comes again; the request goes on."""
        request = self._pick(which)
        for name, (weights, team) in list(self.reference.loaded.items()):
            if weights == request.spec.adapter:
                self._remove(name)
                self._chunk(request, count)
                self._put(name, int(weights.digest[-1]), team)

    @rule()
    def reset(self) -> None:
        self.books.reset()
        self._lost_all()

    # What must hold after every step

    @invariant()
    def books_balance(self) -> None:
        self.books.check()
        for page, state in enumerate(self.books.walk()):
            holders = self.reference.holders(page)
            assert state.refs == holders, f"page {page} has {holders} holders, counts {state.refs}"
            published = page in self.reference.prefix_of
            assert state.published == published, f"published or not: page {page}"
            free = not holders and not published
            assert state.free == free, f"page {page} is free or not: {state}"

    @invariant()
    def contents_are_true(self) -> None:
        states = self.books.walk()
        for page, (scope, _) in self.reference.prefix_of.items():
            owner = scope[2]
            slots = {(s, self.key_of_slot.get((owner, s), "?")) for s in states[page].slots}
            keys = {key for _, key in slots}
            wanted = self.reference.valid[page]
            assert keys == wanted, f"validity bits of page {page}: {keys}, not {wanted}"
            self.memory.check_published(page, scope, slots)

    @invariant()
    def tenants_are_apart(self) -> None:
        tenant_of: dict[int, str] = {}
        for request in self.reference.live:
            for page in request.pages:
                tenant = tenant_of.setdefault(page, request.tenant)
                assert tenant == request.tenant, f"page {page} is shared across tenants"

    @invariant()
    def children_go_first(self) -> None:
        assert not self.reference.orphans(), "a page was evicted before those that follow it"

    @rule()
    def drain(self) -> None:
        for request in [*self.reference.live, *self.waiting]:
            self._end(request)
        assert not any(state.refs for state in self.books.walk()), "leased without a request"

    def teardown(self) -> None:
        """All is free when nobody is left."""
        if sys.exc_info()[0] is not None:
            return  # a step failed, and that is what shall be told
        self.drain()
        for owner, sharer in self.sharer_of.items():
            self.reference.forget(owner)
            self.books.forget(sharer)
        assert all(state.free for state in self.books.walk()), "pages stay used after a drain"

    # Helpers

    def _allocating(self) -> None:
        if self.fail_in:
            self.fail_in -= 1
            if not self.fail_in:
                raise InjectedError

    @contextmanager
    def _failing(self, nth: int) -> Iterator[list[bool]]:
        failed: list[bool] = []
        self.fail_in = nth
        try:
            yield failed
        except InjectedError:
            failed.append(True)
        finally:
            self.fail_in = 0

    def _pick(self, which: int) -> Request:
        return self.reference.live[which % len(self.reference.live)]

    def _members(self, team: str | None) -> list[Any]:
        members: list[Any] = [n for n, (_, t) in self.reference.loaded.items() if t == team]
        based = team is None or self.reference.teams[team].with_base
        return [*members, None] if based else members

    def _bind(self, name: str | None) -> Binding[Adapter]:
        """The binding, whose identity and slots must be those of the reference."""
        spec, binding = self.reference.spec(name), self.books.binding(name)
        assert self.sharer_of.setdefault(spec.owner, binding.sharer) == binding.sharer, spec.owner
        assert len(set(self.sharer_of.values())) == len(self.sharer_of), "one sharer of two owners"
        assert binding.policy.value == spec.policy
        keys = [key_of(spec.policy, fill.adapter) for fill in binding.fills]
        assert set(keys) == spec.fills, f"{name} fills {keys}, should fill {spec.fills}"
        for fill, key in zip(binding.fills, keys, strict=True):
            assert key is not None
            known = self.key_of_slot.setdefault((spec.owner, fill.slot), key)
            assert known == key, f"slot {fill.slot} of {spec.owner} is {key} and {known}"
        reads = None if binding.slot is None else self.key_of_slot[spec.owner, binding.slot]
        assert reads == spec.reads, f"{name} reads the slot of {reads}, not of {spec.reads}"
        return binding

    def _sharers(self) -> dict[Owner, str]:
        """Whose pages somebody can ask for now."""
        names = (None, *self.reference.loaded)
        return {self.reference.spec(n).owner: self._bind(n).sharer for n in names}

    def _admit(self, name: str | None, tenant: str, tokens: list[int]) -> Request:
        binding, spec = self._bind(name), self.reference.spec(name)
        request = Request(spec, tenant, list(tokens), len(tokens), spec.context(tokens))
        context = binding.context_tokens(tokens) if binding.base_reads else None
        assert request.context == (NEVER if context is None else context), f"{name} acts from there"
        self._enter(request, binding)
        self.histories.append(request.tokens)
        return request

    def _enter(self, request: Request, binding: Binding[Adapter]) -> None:
        if len(self.reference.live) >= MAX_LIVE:
            self.finish(0)
        found = self.books.admit(request, binding)
        self.bindings[request] = binding
        if found is None:
            most = len(request.tokens) // self.books.page_size  # those that it found, too
            assert self.reference.available() <= most, "not admitted though there are pages"
            self.events["out of pages"] += 1
            self.waiting.append(request)
            return
        self.reference.admit(request, found.pages)
        lr = self.books.page_size * self._leading(request)
        self.writes_from[request] = found.writes_from
        writers = self.reference.writers[request.spec.owner]
        self.memory.check_hits(request, binding.slot, lr, writers)
        what = (found.base, found.computed)
        assert what == (request.base, request.done), f"{what}, not {request.base, request.done}"
        assert request.done < len(request.tokens), "the last token's output is wanted"
        self.events[f"{request.spec.policy} hit" if found.pages else "miss"] += 1
        self.events["lr behind base"] += lr < request.base
        if self.books.computes_whole_pages:
            assert self._chunk(request, 1), "it was admitted with its first token"

    def _leading(self, request: Request) -> int:
        """Pages in whose slot the request finds what it needs."""
        key, valid = request.spec.reads, self.reference.valid
        lacking = (i for i, page in enumerate(request.pages) if key and key not in valid[page])
        return next(lacking, len(request.pages))

    def _extend(self, request: Request, upto: int) -> bool:
        missing = max(0, -(-upto // self.books.page_size) - len(request.pages))
        new = self.books.extend(request, upto)
        if new is None:
            assert missing > self.reference.available(), "out of pages although there are some"
            self.events["out of pages"] += 1
            return False
        assert len(new) == missing, f"{len(new)} new pages, not {missing}"
        longest_idle = self.reference.idle
        free = self.reference.available() - len(longest_idle)
        evicted = self.reference.extend(request, new)
        if not self.books.publishes_twice:
            assert set(evicted) == set(longest_idle[: max(0, missing - free)]), (
                "evicted out of turn"
            )
        self.events["eviction"] += len(evicted)
        return True

    def _chunk(self, request: Request, count: int) -> bool:
        """Compute up to that many tokens more."""
        if request not in self.reference.live:
            return False
        upto = min(request.done + count, len(request.tokens))
        if not self._extend(request, upto):
            return False
        self._write(request, upto)
        self.books.commit(request, upto)
        private = min(upto, request.context) < upto
        self.events["private page filled"] += private
        self.events["commit of a forgotten lease"] += request.detached
        self.reference.commit(request, upto)
        return True

    def _write(self, request: Request, upto: int) -> None:
        self.memory.write(request, self.bindings[request], self.writes_from[request], upto)

    def _release(self, request: Request) -> None:
        self.books.release(request)
        self.reference.release(request)

    def _end(self, request: Request) -> None:
        """Finished or aborted: what only its old binding could find goes."""
        if request in self.waiting:
            self.waiting.remove(request)
        else:
            self._release(request)
        del self.bindings[request]
        if request.spec.owner not in self._sharers():
            self._forget(request.spec.owner)

    def _lost_all(self) -> None:
        self.waiting += self.reference.reset()

    def _put(self, name: str, version: int, team: str | None, again: bool = False) -> None:
        """``again``: after an interrupted one, which may have been done in part."""
        before = {} if again else self._sharers()
        weights = adapter(name, version)
        known = self.reference.loaded.get(name)
        done = self.books.put(name, weights, team)
        assert done == self.reference.put(name, weights, team), f"{name} into {team}: {done}"
        after = self._sharers()
        if not done:
            assert again or after == before, "a refused load changed something"
            self.events["refused load"] += 1
        self.events["changed policy"] += done and known is not None and known[1] != team
        self._forget(*(before.keys() - after.keys()))

    def _remove(self, name: str, again: bool = False) -> None:
        if name in self.reference.loaded:
            before = {} if again else self._sharers()
            self.books.remove(name)
            self.reference.remove(name)
            self._forget(*(before.keys() - self._sharers().keys()))

    def _forget(self, *owners: Owner) -> None:
        for owner in owners:
            expected = self.reference.forget(owner)
            freed = self.books.forget(self.sharer_of[owner])
            assert freed == expected, f"forget freed {freed}, not {expected}"
            self.events["unload frees pages"] += expected > 0

"""Sharing and cache as plain Python: what both must answer, in the slowest way.

It imports nothing of the package: no key, no bit, no slot number. A page is found by its owner and
its tokens, and what is valid in it is a set of names: of the A's, or, where each agent fills its
own slot, of the adapters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.model_based.world import Adapter, Team, key_of

NEVER = 1 << 30
Owner = tuple[str, object]  # who may share: an adapter's content, the base model, a group's era
Scope = tuple[str, str, Owner]  # policy, tenant, owner


class Spec(NamedTuple):
    """What a request may read, and what its tokens fill."""

    adapter: Adapter | None
    policy: str
    owner: Owner
    reads: str | None
    fills: frozenset[str]

    def context(self, prompt: list[int]) -> int:
        """Leading tokens that others may read; without the adapter if it acts behind them."""
        if self.adapter is None or not (self.policy == "neutral" or self.adapter.is_alora):
            return NEVER
        if self.adapter.acting_tokens is None:
            return len(prompt) - 1
        wanted = list(self.adapter.acting_tokens)
        found = [i for i in range(len(prompt)) if prompt[i : i + len(wanted)] == wanted]
        return found[-1] if found else NEVER


@dataclass(eq=False)
class Request:
    """A request; it has pages while it is in ``Reference.live``."""

    spec: Spec
    tenant: str
    tokens: list[int]
    prompt: int  # how many of the tokens
    context: int
    pages: list[int] = field(default_factory=list)
    base: int = 0
    done: int = 0
    fills_from: dict[str, int] = field(default_factory=dict)  # pages
    detached: bool = False

    @property
    def scope(self) -> Scope:
        return (self.spec.policy, self.tenant, self.spec.owner)


class Reference:
    """Groups over time, published prefixes, the idle order, live requests."""

    def __init__(self, teams: dict[str, Team], slots: int, books: Any) -> None:
        self.teams, self.slots, self.books, self.size = teams, slots, books, int(books.page_size)
        self.loaded: dict[str, tuple[Adapter, str | None]] = {}
        self.writers: dict[Owner, set[str]] = {}  # who may have computed an owner's pages
        self.prefix_of: dict[int, tuple[Scope, tuple[int, ...]]] = {}
        self.valid: dict[int, set[str]] = {}
        self.follows: set[int] = set()  # pages that were found behind their prefix once
        self.idle: list[int] = []
        self.live: list[Request] = []

    def put(self, name: str, adapter: Adapter, team: str | None) -> bool:
        """Load, reload, join, or change the policy; False when that is refused."""
        if team is not None:
            group = self.teams[team]
            neutral = group.policy == "neutral"
            members = {**group.members, name: adapter}
            mine = {key for a in members.values() if (key := key_of(group.policy, a))}
            ends = group.known.get(name, adapter) != adapter and not neutral
            keys = mine if ends else group.keys | mine
            if len(keys) > self.slots:
                ends, keys = True, mine
            if len(keys) > self.slots or (adapter.is_alora and not neutral):
                return False
            group.era, group.members, group.keys = group.era + ends, members, keys
            group.known[name] = adapter
        if name in self.loaded and self.loaded[name][1] != team:
            self.remove(name)
        self.loaded[name] = (adapter, team)
        return True

    def remove(self, name: str) -> None:
        _, team = self.loaded.pop(name)
        if team is not None:
            del self.teams[team].members[name]

    def spec(self, name: str | None) -> Spec:
        of_base = [name for name, team in self.teams.items() if team.with_base] or [None]
        adapter, team = self.loaded[name] if name is not None else (None, *of_base)
        if team is None:
            owner = ("base model", 0) if adapter is None else ("adapter", adapter.digest)
            policy, members, with_base = "isolated", [adapter], adapter is None
        else:
            group = self.teams[team]
            owner, policy, with_base = (team, group.era), group.policy, group.with_base
            members = list(group.members.values())
        writers = {member.digest for member in members if member}
        if policy == "neutral" or (adapter is not None and adapter.is_alora):
            writers = {"base model"}
        self.writers.setdefault(owner, {"base model"} if with_base else set()).update(writers)
        own = key_of(policy, adapter)
        filled = members if policy in ("neutral", "base+lr") else [adapter]
        fills = {key for member in filled if (key := key_of(policy, member))}
        return Spec(adapter, policy, owner, own, frozenset(fills))

    def holders(self, page: int) -> int:
        return sum(request.pages.count(page) for request in self.live)

    def available(self) -> int:
        return self.books.num_pages - len({p for request in self.live for p in request.pages})

    def admit(self, request: Request, found: list[int]) -> None:
        """Lease what the books found; it must be the longest prefix there is."""
        tokens, size = request.tokens, self.size
        whole = min(len(tokens), request.context) // size
        wanted = [(request.scope, tuple(tokens[: (i + 1) * size])) for i in range(whole)]
        hits = [self.prefix_of.get(page) for page in found]
        assert hits == wanted[: len(hits)], f"hits {hits}, wanted {wanted}"
        assert len(hits) == whole or wanted[len(hits)] not in self.prefix_of.values(), "a miss"
        valid = [self.valid[page] for page in found] + [set()]
        lacking = {k: [k in names for names in valid].index(False) for k in request.spec.fills}
        lr = lacking[request.spec.reads] if request.spec.reads else len(found)
        most = len(tokens) - 1
        if self.books.computes_whole_pages:
            most = most // size * size
        request.done = min(lr * size, most)
        request.pages, request.base = list(found), len(found) * size
        request.fills_from = {k: max(-(-request.done // size), at) for k, at in lacking.items()}
        self.idle = [page for page in self.idle if page not in found]
        self.live.append(request)

    def extend(self, request: Request, new: list[int]) -> list[int]:
        """Take the pages that the books chose; returns those that were evicted."""
        assert len({*new}) == len(new), f"handed out twice: {new}"
        for page in new:
            assert self.holders(page) == 0, f"page {page} was handed out while in use"
        evicted = [page for page in self.idle if page in new]
        self.unpublish(evicted)
        request.pages += new
        return evicted

    def commit(self, request: Request, done: int) -> None:
        """Publish full pages, and what they are filled with."""
        for i in range(request.done // self.size, min(done, request.context) // self.size):
            if request.detached:
                continue
            page, end, parent = request.pages[i], (i + 1) * self.size, i * self.size
            prefix, parent = [(request.scope, tuple(request.tokens[:n])) for n in (end, parent)]
            if end <= request.base:
                if page in self.prefix_of:  # and was not forgotten meanwhile
                    self.valid[page] |= {k for k, at in request.fills_from.items() if i >= at}
            elif self.books.publishes_twice or prefix not in self.prefix_of.values():
                self.prefix_of[page], self.valid[page] = prefix, set(request.spec.fills)
                if i and self.prefix_of.get(request.pages[i - 1]) == parent:
                    self.follows.add(page)
        request.done = done

    def release(self, request: Request) -> None:
        self.live.remove(request)
        for page in reversed(request.pages):
            if page in self.prefix_of and self.holders(page) == 0:
                self.idle.append(page)

    def forget(self, owner: Owner) -> int:
        """Returns how many pages become free at once."""
        doomed = [page for page, (scope, _) in self.prefix_of.items() if scope[2] == owner]
        freed = sum(page in self.idle for page in doomed)
        self.unpublish(doomed)
        for request in self.live:
            request.detached |= request.spec.owner == owner and self.books.detaches
        return freed

    def reset(self) -> list[Request]:
        """Drop all pages; returns the requests that lost theirs."""
        lost, self.live = self.live, []
        self.unpublish(list(self.prefix_of))
        return lost

    def unpublish(self, pages: list[int]) -> None:
        for page in pages:
            del self.prefix_of[page], self.valid[page]
            self.follows.discard(page)
        self.idle = [page for page in self.idle if page in self.prefix_of]

    def orphans(self) -> set[int]:
        """Pages whose prefix was evicted before them, though it was there when they came."""
        found = self.prefix_of.values()
        cut = {p: (scope, text[: -self.size]) for p, (scope, text) in self.prefix_of.items()}
        return {page for page in self.follows if cut[page] not in found}

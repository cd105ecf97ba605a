"""Which tokens of which requests run in the next step: continuous batching, chunked prefill."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from lragent.cache.errors import OutOfPages
from lragent.cache.manager import CacheManager
from lragent.engine.request_state import RequestState


@dataclass(frozen=True)
class Scheduled:
    """`count` tokens of a request, from position `start` on, whose pages are leased."""

    request: RequestState
    start: int
    count: int

    @property
    def samples(self) -> bool:
        """Whether the last token's logits choose a new token."""
        return self.start + self.count == len(self.request.tokens)

    @property
    def prompt_positions(self) -> range:
        """Positions whose logits tell the log-probability of the prompt's next token, if wanted."""
        if self.request.params.prompt_logprobs is None:
            return range(0)
        last = self.request.prompt_tokens - 1
        return range(min(self.start, last), min(self.start + self.count, last))


class Scheduler:
    """By priority, then first come, first served; running requests before waiting ones.

    A request whose next page a running one is just computing waits for it, so that what several ask
    about at once is computed once. When pages run out, the running request that is last in the
    order gives its pages back and waits again. What it published stays cached while there is room,
    so little is computed twice.
    """

    def __init__(self, cache: CacheManager, max_num_batched_tokens: int, max_num_seqs: int):
        self._cache = cache
        self._max_tokens = max_num_batched_tokens
        self._max_size = max_num_seqs
        self.waiting: list[RequestState] = []  # by rank
        self.running: list[RequestState] = []
        self.preemptions = 0
        self.at_hand: RequestState | None = None  # who is to blame for an exception in schedule()
        # A request that did not fit is tried again, and those behind it, only after pages were
        # given back.
        self._blocked: RequestState | None = None

    def add(self, request: RequestState) -> None:
        """Queue a request."""
        insort(self.waiting, request, key=_rank)

    def remove(self, request: RequestState) -> None:
        """Take a request out, wherever it is, and give its pages back."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
            self._blocked = None
        self._release(request)

    def restart(self, requests: Sequence[RequestState]) -> None:
        """Let all `requests` wait; the cache has dropped their pages."""
        for request in requests:
            request.lease = request.ahead = None
            request.computed = 0
        self.running = []
        self.waiting = sorted(requests, key=_rank)
        self._blocked = None

    def schedule(self) -> list[Scheduled]:
        """Choose the next step's tokens and lease the pages they go to."""
        budget = self._max_tokens
        plan: list[Scheduled] = []
        # decoding requests need one token each and go before prompts, so that streams keep flowing
        order = sorted(self.running, key=lambda r: len(r.tokens) - r.computed > 1)
        for request in order:
            if budget == 0:
                break
            self.at_hand = request
            if request not in self.running:
                continue  # gave its pages back to an earlier one
            count = min(len(request.tokens) - request.computed, budget)
            preempted = self._make_room(request, request.computed + count)
            plan = [s for s in plan if s.request not in preempted]
            budget = self._max_tokens - sum(s.count for s in plan)
            if request in preempted:
                continue
            plan.append(Scheduled(request, request.computed, count))
            budget -= count
        for request in self.waiting.copy():
            if not budget or len(self.running) == self._max_size or request is self._blocked:
                break
            self.at_hand = request
            if self._waits(request):
                continue
            admitted = self._admit(request, budget)
            if admitted is None:
                self._blocked = request
                break
            self.waiting.remove(request)
            self.running.append(request)
            plan.append(admitted)
            budget -= admitted.count
        return plan

    def _waits(self, request: RequestState) -> bool:
        """Whether a running request is computing pages that this one would find in the cache."""
        if request.ahead is not None:
            other, until = request.ahead
            if other.lease is not None and other.lease.committed < until:
                return True
        found = [(self._in_common(request, other), other) for other in self.running]
        until, other = max(found, key=lambda pair: pair[0], default=(0, request))
        request.ahead = (other, until) if until else None
        return request.ahead is not None

    def _in_common(self, request: RequestState, other: RequestState) -> int:
        """Tokens up to which `other` is about to fill pages that `request` can read; or 0."""
        size, lease = self._cache.page_size, other.lease
        assert lease is not None
        if not request.client.reads(other.client):
            return 0
        mine, theirs = request.tokens, other.tokens
        shareable = (request.shareable_tokens, other.shareable_tokens, len(mine), len(theirs))
        pages = min(count for count in shareable if count is not None) // size
        if pages * size <= lease.committed or mine[:size] != theirs[:size]:
            return 0
        parted = bisect_left(
            range(1, pages + 1), True, key=lambda n: mine[: n * size] != theirs[: n * size]
        )
        return parted * size if parted * size > lease.committed else 0

    def _admit(self, request: RequestState, budget: int) -> Scheduled | None:
        """Lease what is cached of the request and pages for the rest of it, if they fit."""
        lease = self._cache.admit(request.client, request.tokens, request.shareable_tokens)
        start = lease.computed_tokens
        count = min(len(request.tokens) - start, budget)
        try:
            self._cache.extend(lease, len(request.tokens))
        except OutOfPages:
            self._cache.release(lease)
            return None
        request.lease = lease
        request.computed = start
        return Scheduled(request, start, count)

    def _make_room(self, request: RequestState, tokens: int) -> list[RequestState]:
        """Lease pages for `tokens` tokens; returns the requests that had to give theirs back."""
        preempted: list[RequestState] = []
        assert request.lease is not None
        while True:
            try:
                self._cache.extend(request.lease, tokens)
            except OutOfPages:
                last = max(self.running, key=_rank)
                self._preempt(last)
                preempted.append(last)
                if last is request:
                    return preempted
            else:
                return preempted

    def _preempt(self, request: RequestState) -> None:
        self.running.remove(request)
        self._release(request)
        insort(self.waiting, request, key=_rank)
        self.preemptions += 1
        self._blocked = request  # its pages went to an older one

    def _release(self, request: RequestState) -> None:
        if request.lease is not None:
            lease, request.lease = request.lease, None
            request.computed = 0
            self._cache.release(lease)
            self._blocked = None


def _rank(request: RequestState) -> tuple[int, int]:
    return request.rank

"""Which tokens of which requests run in the next step: continuous batching, chunked prefill."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from lragent.cache.errors import OutOfPages
from lragent.cache.manager import CacheManager
from lragent.engine.request_state import RequestState


@dataclass(frozen=True)
class Scheduled:
    """`count` tokens of a request, from position `start` on, whose pages are leased.

    `first` marks the first step of a request since it was submitted.
    """

    request: RequestState
    start: int
    count: int
    first: bool = False

    @property
    def samples(self) -> bool:
        """Whether the last token's logits choose a new token."""
        return self.start + self.count == len(self.request.tokens)


class Scheduler:
    """First come, first served; running requests before waiting ones.

    When pages run out, the request that came last gives its pages back and waits at the front of
    the queue. What it published stays cached while there is room, so little is computed twice.
    """

    def __init__(self, cache: CacheManager, max_batch_tokens: int, max_batch_size: int):
        self._cache = cache
        self._max_tokens = max_batch_tokens
        self._max_size = max_batch_size
        self.waiting: deque[RequestState] = deque()
        self.running: list[RequestState] = []
        self.preemptions = 0
        # a request that did not fit is tried again only after pages were given back
        self._front_blocked = False

    def add(self, request: RequestState) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def remove(self, request: RequestState) -> None:
        """Take a request out, wherever it is, and give its pages back."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._release(request)

    def schedule(self) -> list[Scheduled]:
        """Choose the next step's tokens and lease the pages they go to."""
        budget = self._max_tokens
        plan: list[Scheduled] = []
        # decoding requests need one token each and go before prompts, so that streams keep flowing
        order = sorted(self.running, key=lambda r: len(r.tokens) - r.computed > 1)
        for request in order:
            if budget == 0:
                break
            if request not in self.running:
                continue  # gave its pages back to an earlier one
            count = min(len(request.tokens) - request.computed, budget)
            preempted = self._make_room(request, request.computed + count)
            plan = [s for s in plan if s.request not in preempted]
            budget = self._max_tokens - sum(s.count for s in plan)
            if request in preempted:
                break
            plan.append(Scheduled(request, request.computed, count))
            budget -= count
        while self._may_admit() and budget:
            admitted = self._admit(self.waiting[0], budget)
            if admitted is None:
                self._front_blocked = True
                break
            self.waiting.popleft()
            self.running.append(admitted.request)
            plan.append(admitted)
            budget -= admitted.count
        return plan

    def _may_admit(self) -> bool:
        room = len(self.running) < self._max_size
        return bool(self.waiting) and room and not self._front_blocked

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
        first = request.cached_tokens is None
        if first:
            request.cached_tokens = start
            request.not_shared = lease.not_shared
        return Scheduled(request, start, count, first)

    def _make_room(self, request: RequestState, tokens: int) -> list[RequestState]:
        """Lease pages for `tokens` tokens; returns the requests that had to give theirs back."""
        preempted: list[RequestState] = []
        assert request.lease is not None
        while True:
            try:
                self._cache.extend(request.lease, tokens)
            except OutOfPages:
                last = max(self.running, key=lambda r: r.id)
                self._preempt(last)
                preempted.append(last)
                if last is request:
                    return preempted
            else:
                return preempted

    def _preempt(self, request: RequestState) -> None:
        self.running.remove(request)
        self._release(request)
        self.waiting.appendleft(request)
        self.preemptions += 1
        self._front_blocked = True  # its pages went to an older request

    def _release(self, request: RequestState) -> None:
        if request.lease is not None:
            lease, request.lease = request.lease, None
            request.computed = 0
            self._cache.release(lease)
            self._front_blocked = False

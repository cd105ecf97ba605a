"""The step loop: schedule, run the model, choose tokens, publish pages, end requests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from lragent.cache.manager import CacheManager
from lragent.engine.outputs import FinishReason
from lragent.engine.prompt_logprobs import record_prompts, sampling_rows
from lragent.engine.request_state import RequestState
from lragent.engine.runner import ModelRunner
from lragent.engine.sampler import Chosen, sample
from lragent.engine.scheduler import Scheduled, Scheduler
from lragent.engine.stats import StatsRecorder
from lragent.engine.step_builder import build_step


class StepLoop:
    """Carries requests from their submission to their end. Its caller holds the engine's lock.

    An exception may come at any line, KeyboardInterrupt above all; `restart` then makes the books
    right again. Tokens that were chosen are not lost.
    """

    def __init__(
        self, cache: CacheManager, runner: ModelRunner, scheduler: Scheduler, page_size: int
    ):
        self._cache = cache
        self._runner = runner
        self._scheduler = scheduler
        self._page_size = page_size
        self._requests: dict[int, RequestState] = {}
        self._chosen: deque[tuple[RequestState, Chosen]] = deque()  # not handed over yet
        self._handing: RequestState | None = None
        self.recorder = StatsRecorder()
        self.peak_pages = 0

    @property
    def running(self) -> list[RequestState]:
        """Requests that have not ended, waiting ones too."""
        return list(self._requests.values())

    @property
    def scheduled(self) -> int:
        """How many of them have pages and take part in steps."""
        return len(self._scheduler.running)

    @property
    def preemptions(self) -> int:
        """How often a request gave its pages back to wait."""
        return self._scheduler.preemptions

    def add(self, requests: Sequence[RequestState]) -> None:
        """Queue new requests."""
        for request in requests:
            self._requests[request.id] = request
            self.recorder.submitted(request)
        for request in requests:
            self._scheduler.add(request)

    def end(self, request: RequestState, reason: FinishReason) -> None:
        """Take a request out, whatever its state, and close it."""
        self._scheduler.remove(request)
        request.finish(reason)
        del self._requests[request.id]
        self.recorder.ended(request)

    def fail(self, request: RequestState, error: BaseException | str) -> None:
        """End a request that has not ended with an error."""
        if not request.done:
            known = isinstance(error, str)
            request.error = error if known else f"{type(error).__name__}: {error}"
            self.end(request, "error")

    def end_overdue(self) -> list[RequestState]:
        """End the requests whose deadline is over; returns them."""
        now = time.perf_counter()
        live = self._requests.values()
        overdue = [r for r in live if r.deadline is not None and r.deadline <= now]
        for request in overdue:
            self.end(request, "deadline")
        return overdue

    def step(self) -> list[RequestState] | None:
        """Run one forward pass; the requests that it ended, None when there is nothing to do.

        An error in it ends the requests of the step with that error, and the loop goes on.
        """
        if self._chosen:  # of a step that was interrupted
            asked = [request for request, _ in self._chosen]
            self._hand_over()
            return [request for request in asked if request.done]
        try:
            plan = self._scheduler.schedule()
        except Exception as error:  # of the request at hand; the others shall not meet it
            at_hand = self._scheduler.at_hand
            self.restart()
            if at_hand is None:
                return []
            self.fail(at_hand, error)
            return [at_hand]
        if not plan:
            return None
        for item in plan:
            request, lease = item.request, item.request.lease
            assert lease is not None
            if request.cached_tokens is None:
                request.cached_tokens, request.not_shared = item.start, lease.not_shared
                self.recorder.admitted(item)
        try:
            self._run(plan)
        except Exception as error:  # one bad step must not take the engine down
            for item in plan:
                self.fail(item.request, error)
        return [item.request for item in plan if item.request.done]

    def restart(self) -> None:
        """From whatever an exception left to books that are right. May itself be interrupted.

        It empties the cache, and the running requests compute their tokens again.
        """
        self._cache.reset()
        for request in self.running:
            if request.done:
                del self._requests[request.id]
                request.outbox.wake(ended=True)
        self._scheduler.restart(self.running)
        if self._handing is not None:
            # some of its token's text may have been handed over, and must not be again
            self.fail(self._handing, "the engine was interrupted while it handed over a token")
        self._handing = None
        self._chosen = deque(pair for pair in self._chosen if not pair[0].done)

    def _run(self, plan: list[Scheduled]) -> None:
        runner = self._runner
        started = time.perf_counter()
        step = build_step(plan, runner.bank, self._page_size, runner.dtype, runner.device)
        logits = runner.run(step)
        sampling = [item.request for item in plan if item.samples]
        failed_prompts: dict[int, Exception] = {}
        if len(logits) > len(sampling):  # some are of prompts
            failed_prompts = record_prompts(plan, logits)
            logits = logits[sampling_rows(plan)]
        chosen = sample(logits, [r.sampler for r in sampling], [r.tokens for r in sampling])
        self.recorder.ran(plan, time.perf_counter() - started)
        self._chosen = deque(zip(sampling, chosen, strict=True))
        failed = [request for request, choice in self._chosen if choice.error is not None]
        for item in plan:
            request = item.request
            if request in failed:
                continue  # what it wrote may be NaN, so nobody else shall find it
            request.computed = item.start + item.count
            assert request.lease is not None
            self._cache.commit(request.lease, request.tokens, request.computed)
            if request.id in failed_prompts:
                self.fail(request, failed_prompts[request.id])
        self.peak_pages = max(self.peak_pages, self._cache.used_pages)
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the chosen tokens to their requests, and end those that are complete."""
        while self._chosen:
            request, choice = self._chosen[0]
            self._handing = request
            try:
                self._hand(request, choice)
            except Exception as error:  # of this request alone
                self.fail(request, error)
            self._chosen.popleft()
            self._handing = None

    def _hand(self, request: RequestState, choice: Chosen) -> None:
        if request.done:
            return
        if choice.error is not None:
            self.fail(request, choice.error)
            return
        if request.first_token is None:
            request.first_token = time.perf_counter()
            self.recorder.first_token(request, request.first_token - request.submitted)
        reason = request.push(choice)
        if reason is not None:
            self.end(request, reason)

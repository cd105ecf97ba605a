"""The step loop: schedule, run the model, choose tokens, publish pages, end requests."""

from __future__ import annotations

import time

from lragent.cache.manager import CacheManager
from lragent.engine.outputs import FinishReason
from lragent.engine.request_state import RequestState
from lragent.engine.runner import ModelRunner
from lragent.engine.sampler import sample
from lragent.engine.scheduler import Scheduled, Scheduler
from lragent.engine.stats import StatsRecorder
from lragent.engine.step_builder import build_step


class StepLoop:
    """Carries requests from their submission to their end. Its caller holds the engine's lock."""

    def __init__(
        self, cache: CacheManager, runner: ModelRunner, scheduler: Scheduler, page_size: int
    ):
        self._cache = cache
        self._runner = runner
        self._scheduler = scheduler
        self._page_size = page_size
        self._requests: dict[int, RequestState] = {}
        self.recorder = StatsRecorder()
        self.peak_pages = 0

    @property
    def running(self) -> list[RequestState]:
        """Requests that have not ended, waiting ones too."""
        return list(self._requests.values())

    @property
    def preemptions(self) -> int:
        """How often a request gave its pages back to wait."""
        return self._scheduler.preemptions

    def add(self, request: RequestState) -> None:
        """Queue a new request."""
        self._requests[request.id] = request
        self.recorder.submitted(request)
        self._scheduler.add(request)

    def end(self, request: RequestState, reason: FinishReason) -> None:
        """Take a request out, whatever its state, and close it."""
        self._scheduler.remove(request)
        del self._requests[request.id]
        request.finish(reason)
        self.recorder.ended(request)

    def step(self) -> list[RequestState] | None:
        """Run one forward pass; the requests that it ended, None when there is nothing to do.

        An error in it ends the requests of the step with that error, and the loop goes on.
        """
        plan = self._scheduler.schedule()
        if not plan:
            return None
        for item in plan:
            if item.first:
                self.recorder.admitted(item)
        try:
            self._run(plan)
        except Exception as error:  # one bad step must not take the engine down
            for item in plan:
                if not item.request.done:
                    item.request.error = f"{type(error).__name__}: {error}"
                    self.end(item.request, "error")
        return [item.request for item in plan if item.request.done]

    def _run(self, plan: list[Scheduled]) -> None:
        runner = self._runner
        started = time.perf_counter()
        step = build_step(plan, runner.bank, self._page_size, runner.dtype, runner.device)
        logits = runner.run(step)
        sampling = [item.request for item in plan if item.samples]
        chosen = sample(logits, [r.sampler for r in sampling], [r.tokens for r in sampling])
        now = time.perf_counter()
        self.recorder.ran(plan, now - started)
        for item in plan:
            request = item.request
            request.computed = item.start + item.count
            assert request.lease is not None
            self._cache.commit(request.lease, request.tokens, request.computed)
        self.peak_pages = max(self.peak_pages, self._cache.used_pages)
        for request, choice in zip(sampling, chosen, strict=True):
            if request.first_token is None:
                request.first_token = now
                self.recorder.first_token(request, now - request.submitted)
            reason = request.push(choice)
            if reason is not None:
                self.end(request, reason)

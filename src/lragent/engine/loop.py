"""The step loop: schedule, run the model, choose tokens, publish pages, end requests."""

from __future__ import annotations

import time
from collections.abc import Callable

from lragent.cache.manager import CacheManager
from lragent.engine.bindings import Binding
from lragent.engine.progress import Progress
from lragent.engine.request import FinishReason, Request
from lragent.engine.runner import ModelRunner
from lragent.engine.sampler import sample
from lragent.engine.scheduler import Scheduled, Scheduler
from lragent.engine.stats import StatsRecorder
from lragent.engine.step_builder import build_step


class StepLoop:
    """Carries requests from their submission to their end. Its caller holds the engine's lock.

    Args:
        cache, runner, scheduler: what a step works on.
        page_size: tokens in a page.
        bindings: those of all requests that may come, asked for at every step.
        ended: called with each request after its end.
    """

    def __init__(
        self,
        cache: CacheManager,
        runner: ModelRunner,
        scheduler: Scheduler,
        page_size: int,
        bindings: Callable[[], list[Binding]],
        ended: Callable[[Request], None],
    ):
        self._cache = cache
        self._runner = runner
        self._scheduler = scheduler
        self._page_size = page_size
        self._bindings = bindings
        self._ended = ended
        self._progress: dict[int, Progress] = {}
        self.recorder = StatsRecorder()
        self.peak_pages = 0

    @property
    def running(self) -> list[Request]:
        """Requests that have not ended, waiting ones too."""
        return [progress.request for progress in self._progress.values()]

    @property
    def preemptions(self) -> int:
        """How often a request gave its pages back to wait."""
        return self._scheduler.preemptions

    def add(self, progress: Progress) -> None:
        """Queue a new request."""
        self._progress[progress.request.id] = progress
        self.recorder.submitted(progress.request)
        self._scheduler.add(progress.request)

    def end(self, request: Request, reason: FinishReason) -> None:
        """Take a request out, whatever its state, and close it."""
        self._scheduler.remove(request)
        self._progress.pop(request.id).finish(reason)
        self.recorder.ended(request)
        self._ended(request)

    def step(self) -> bool:
        """Run one forward pass; False when there is nothing to do.

        An error in it ends the requests of the step with that error, and the loop goes on.
        """
        waiting = set(self._scheduler.waiting)
        plan = self._scheduler.schedule()
        if not plan:
            return False
        for item in plan:
            if item.request in waiting and not self._progress[item.request.id].admitted:
                self._progress[item.request.id].admitted = True
                self.recorder.admitted(item)
        try:
            self._run(plan)
        except Exception as error:  # one bad step must not take the engine down
            for item in plan:
                if not item.request.done:
                    item.request.error = f"{type(error).__name__}: {error}"
                    self.end(item.request, "error")
            return True
        finally:
            if not self._progress:
                self._cache.check_integrity()
        return True

    def _run(self, plan: list[Scheduled]) -> None:
        runner = self._runner
        started = time.perf_counter()
        step = build_step(plan, runner.bank, self._page_size, runner.dtype, runner.device)
        logits = runner.run(step, self._bindings())
        sampling = [item for item in plan if item.samples]
        samplers = [self._progress[item.request.id].sampler for item in sampling]
        chosen = sample(logits, samplers, [item.request.tokens for item in sampling])
        now = time.perf_counter()
        self.recorder.ran(plan, now - started)
        for item in plan:
            request = item.request
            request.computed = item.start + item.count
            assert request.lease is not None
            self._cache.commit(request.lease, request.tokens, request.computed)
        self.peak_pages = max(self.peak_pages, self._cache.used_pages)
        for item, choice in zip(sampling, chosen, strict=True):
            if item.request.first_token is None:
                item.request.first_token = now
                self.recorder.first_token(item.request, now - item.request.submitted)
            reason = self._progress[item.request.id].push(choice)
            if reason is not None:
                self.end(item.request, reason)

"""The step loop: schedule, run the model, choose tokens, publish pages, end requests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lragent.cache.manager import CacheManager
from lragent.engine.bindings import Binding
from lragent.engine.progress import Progress
from lragent.engine.request import FinishReason, Request
from lragent.engine.runner import ModelRunner
from lragent.engine.sampler import Chosen, sample
from lragent.engine.scheduler import Scheduled, Scheduler
from lragent.engine.stats import StatsRecorder
from lragent.engine.step_builder import build_step


class StepLoop:
    """Carries requests from their submission to their end. Its caller holds the engine's lock.

    An exception may come at any line of a change of the books, KeyboardInterrupt above all. The
    books are then in doubt until the next change, which begins by emptying the cache and lets the
    running requests compute their tokens again. Tokens that were chosen are not lost.

    Args:
        cache, runner, scheduler: what a step works on.
        page_size: tokens in a page.
        bindings: those of all requests that may come, asked for at every step.
        ended: called with each request after its end.
        weights_needed: puts the adapters' weights in place again.
    """

    def __init__(
        self,
        cache: CacheManager,
        runner: ModelRunner,
        scheduler: Scheduler,
        page_size: int,
        bindings: Callable[[], list[Binding]],
        ended: Callable[[Request], None],
        weights_needed: Callable[[], None],
    ):
        self._cache = cache
        self._runner = runner
        self._scheduler = scheduler
        self._page_size = page_size
        self._bindings = bindings
        self._ended = ended
        self._weights_needed = weights_needed
        self._progress: dict[int, Progress] = {}
        self._in_doubt = False
        self._chosen: deque[tuple[Request, Chosen]] = deque()  # not yet handed to their requests
        self._handing: Request | None = None
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

    @contextmanager
    def change(self, *refusals: type[Exception]) -> Iterator[None]:
        """Everything that changes cache, requests or adapters' weights happens in here.

        `refusals` are errors that come before anything was changed.
        """
        if self._in_doubt:
            self._recover()
        self._in_doubt = True
        try:
            yield
        except refusals:
            self._in_doubt = False
            raise
        self._in_doubt = False  # not reached after any other exception

    def add(self, progress: Progress) -> None:
        """Queue a new request."""
        with self.change():
            self._progress[progress.request.id] = progress
            self.recorder.submitted(progress.request)
            self._scheduler.add(progress.request)

    def end(self, request: Request, reason: FinishReason) -> None:
        """Take a request out, whatever its state, and close it."""
        with self.change():
            if not request.done:
                self._end(request, reason)

    def step(self) -> bool:
        """Run one forward pass; False when there is nothing to do.

        An error in it ends the requests of the step with that error, and the loop goes on.
        """
        with self.change():
            return self._step()

    def _recover(self) -> None:
        """From whatever an exception left to books that are right. May itself be interrupted."""
        self._cache.reset()
        self._runner.drop_adapters()
        for progress in list(self._progress.values()):
            if progress.request.done:
                del self._progress[progress.request.id]
        self._scheduler.restart(self.running)
        if self._handing is not None:
            # some of its token's text may have been handed over, and must not be again
            self._fail(self._handing, "the engine was interrupted while it handed over a token")
        self._handing = None
        self._chosen = deque(pair for pair in self._chosen if not pair[0].done)
        self._weights_needed()

    def _end(self, request: Request, reason: FinishReason) -> None:
        self._scheduler.remove(request)
        self._progress[request.id].finish(reason)
        del self._progress[request.id]
        self.recorder.ended(request)
        self._ended(request)

    def _step(self) -> bool:
        if self._chosen:
            self._hand_over()
            return True
        waiting = set(self._scheduler.waiting)
        try:
            plan = self._scheduler.schedule()
        except Exception as error:  # of the request at hand; the others shall not meet it
            self._recover()
            if self._scheduler.at_hand is not None:
                self._fail(self._scheduler.at_hand, error)
            return True
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
                self._fail(item.request, error)
        if not self._progress:
            self._cache.check_integrity()
        return True

    def _fail(self, request: Request, error: Exception | str) -> None:
        if not request.done:
            known = isinstance(error, str)
            request.error = error if known else f"{type(error).__name__}: {error}"
            self._end(request, "error")

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
        self._chosen = deque((i.request, c) for i, c in zip(sampling, chosen, strict=True))
        failed = [request for request, choice in self._chosen if choice.error is not None]
        for item in plan:
            request = item.request
            if request in failed:
                continue  # what it wrote may be NaN, so nobody else shall find it
            request.computed = item.start + item.count
            assert request.lease is not None
            self._cache.commit(request.lease, request.tokens, request.computed)
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
                self._fail(request, error)
            self._chosen.popleft()
            self._handing = None

    def _hand(self, request: Request, choice: Chosen) -> None:
        if request.done:
            return
        if choice.error is not None:
            self._fail(request, choice.error)
            return
        if request.first_token is None:
            request.first_token = time.perf_counter()
            self.recorder.first_token(request, request.first_token - request.submitted)
        reason = self._progress[request.id].push(choice)
        if reason is not None:
            self._end(request, reason)

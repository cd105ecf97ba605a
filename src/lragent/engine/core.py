"""The engine's inside: requests, adapters and pages under one lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.cache.layout import PageLayout
from lragent.cache.manager import CacheManager, Freed
from lragent.cache.page import CachedPage
from lragent.engine.background import Background
from lragent.engine.errors import (
    EngineClosedError,
    EngineError,
    GenerationFailedError,
    QueueFullError,
)
from lragent.engine.loop import StepLoop
from lragent.engine.outbox import Outbox
from lragent.engine.registry import AdapterRegistry
from lragent.engine.request_state import RequestState
from lragent.engine.runner import ModelRunner
from lragent.engine.scheduler import Scheduler
from lragent.sharing import Binding, alone
from lragent.sharing.group import Group


class EngineCore:
    """Keeps the step loop, the registry of adapters, the weights and the pages in agreement.

    Any thread may call it. Steps are run by whoever waits for a request, or by a thread in the
    background once that is started. `debug` proves the cache's books whenever the last request
    ends, and at close. `most_requests` is how many may be there at once, None for any number.

    An exception may come at any line of a change of the books, KeyboardInterrupt above all. The
    books are then in doubt until the next change, which begins by emptying the cache and lets the
    running requests compute their tokens again.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        layout: PageLayout,
        cache: CacheManager,
        runner: ModelRunner,
        scheduler: Scheduler,
        debug: bool,
        most_requests: int | None,
    ):
        self._lock = threading.RLock()
        self._door = threading.RLock()
        self.loop = StepLoop(cache, runner, scheduler, layout.page_size)
        self._registry = registry
        self._layout = layout
        self._cache = cache
        self._runner = runner
        self._debug = debug
        self._most_requests = most_requests
        self._dropped: deque[RequestState] = deque()
        self._background: Background | None = None
        self._closed = False
        self._in_doubt = False
        self._hold_weights()

    def check_open(self) -> None:
        """Refuse work after the end.

        Raises:
            EngineClosedError
        """
        if self._closed:
            raise EngineClosedError("this engine is closed; start another one")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the engine still. Who steps lets everybody in between two steps: a lock alone would
        be taken again before another thread wakes up.
        """
        with self._door, self._lock:
            yield

    def start(self) -> None:
        """Run steps in a thread of its own from now on."""
        if self._background is not None:
            return
        with self.exclusive():
            self.check_open()
            if self._background is None:
                self._background = Background(self._step_in_turn, self._give_up)
                self._background.wake()

    # ---- requests

    def add(self, states: Sequence[RequestState]) -> None:
        """Queue the answers of a new request.

        Raises:
            QueueFullError: too many are there.
        """
        with self.exclusive(), self._change():
            most, there = self._most_requests, len(self.loop.running)
            if most is not None and there + len(states) > most:
                raise QueueFullError(
                    f"{there} requests run or wait and the engine takes {most}; try again later, "
                    "or start it with a higher max_waiting"
                )
            self.loop.add(states)
        if self._background is not None:
            self._background.wake()

    def step(self) -> bool:
        """Run one forward pass; False when there is nothing to do."""
        with self._lock, self._change():
            self.check_open()
            self._end_dropped()
            self._after(self.loop.end_overdue())
            ended = self.loop.step()
            if ended is None:
                return False
            self._after(ended)
            if self._debug and not self.loop.running:
                self._cache.check_integrity()
            return True

    def wait(self, outbox: Outbox, ready: Callable[[], bool], at_end: bool = False) -> None:
        """Until `ready()`: step, or wait for the thread that does.

        `ready` becomes true when a chunk comes to `outbox`, or with `at_end` when an answer ends.
        """
        while not ready():
            if self._background is not None:
                outbox.wait(ready, at_end)
                break
            self._let_others_in()
            with self._lock:
                # another caller's step may have brought it meanwhile
                if not ready() and not self.step() and not ready():
                    raise RuntimeError("a request waits although nothing can run")

    def cancel(self, states: Iterable[RequestState] | None = None) -> None:
        """End those of `states` that have not ended; None means all that run or wait."""
        with self.exclusive(), self._change():
            for state in self.loop.running if states is None else states:
                if not state.done:
                    self.loop.end(state, "cancelled")
                    self._after([state])

    def cached_pages(self, state: RequestState) -> list[CachedPage]:
        """The pages that the cache has now of a request, whether it has ended or not."""
        with self.exclusive():
            return self._cache.look_up(state.client, state.tokens[: state.shareable_tokens])

    def drop(self, state: RequestState) -> None:
        """Have a request end at the next step. Takes no lock: a garbage collector may call it."""
        self._dropped.append(state)

    def close(self) -> None:
        """Cancel what runs and refuse further work."""
        with self.exclusive(), self._change():
            if self._closed:
                return
            for state in self.loop.running:
                self.loop.end(state, "cancelled")
            self._closed = True
            if self._debug:
                self._cache.check_integrity()
        if self._background is not None:
            self._background.stop()

    @contextmanager
    def books(self) -> Iterator[None]:
        """Change the cache from outside of the loop."""
        with self.exclusive(), self._change():
            self.check_open()
            yield

    def check_integrity(self) -> None:
        """Prove that no page is lost or held twice.

        Raises:
            IntegrityError: with every violated invariant.
        """
        with self.exclusive(), self._change():
            self._cache.check_integrity()

    # ---- adapters

    def load(self, name: str, adapter: Adapter, group: Group[Adapter] | None) -> None:
        """Put an adapter under a name, and give back the pages that nobody can ask for any more.

        Raises:
            AdapterError: the pages do not fit it; nothing is changed.
        """
        with self.exclusive(), self._change():
            self.check_open()
            before = self._registry.sharers
            # First the weights: when the device has no memory for them, nothing has changed yet.
            self._hold_weights(alone(name, adapter))
            try:
                self._registry.load(name, adapter, group, self._layout)
            finally:
                self._hold_weights()
            self._forget(before)

    def unload(self, name: str) -> Freed:
        """Take an adapter away; the pages and bytes that only it could use."""
        with self.exclusive(), self._change():
            self.check_open()
            before = self._registry.sharers
            self._registry.unload(name)
            self.loop.recorder.forget(name)
            self._hold_weights()
            return self._forget(before)

    # ---- inside

    def _step_in_turn(self) -> bool:
        self._let_others_in()
        return self.step()

    def _let_others_in(self) -> None:
        with self._door:
            pass

    def _end_dropped(self) -> None:
        while self._dropped:
            state = self._dropped.popleft()
            if state in self.loop.running:
                self.loop.end(state, "cancelled")
                self._after([state])

    def _give_up(self, error: BaseException) -> None:
        """End every request with `error`, with books or, if those cannot be mended, without."""
        with self.exclusive():
            running = self.loop.running
            try:
                with self._change():
                    for state in running:
                        self.loop.fail(state, error)
                    self._after(running)
            except Exception:
                for state in running:
                    if not state.done:
                        state.error = f"{type(error).__name__}: {error}"
                        state.finish("error")

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Everything that changes cache, requests or adapters' weights happens in here.

        Raises:
            GenerationFailedError: a step failed before, and so does mending what it left.
        """
        if self._in_doubt:
            try:
                self._recover()
            except Exception as error:
                cause = f"{type(error).__name__}: {error}"
                raise GenerationFailedError(f"the engine does not recover ({cause})") from error
        self._in_doubt = True
        try:
            yield
        except (AdapterError, EngineError):  # refusals, which come before anything was changed
            self._in_doubt = False
            raise
        self._in_doubt = False  # not reached after any other exception

    def _recover(self) -> None:
        """From whatever an exception left to books that are right. May itself be interrupted."""
        self._runner.drop_adapters()
        self.loop.restart()
        self._hold_weights()

    def _after(self, ended: Iterable[RequestState]) -> None:
        """Give back what only requests on an old binding still held."""
        old = [s.binding for s in ended if s.binding not in self._registry.bindings]
        if old:
            self._hold_weights()
            self._forget({binding.sharer for binding in old})

    def _hold_weights(self, *more: Binding[Adapter]) -> None:
        """Keep the weights of current bindings, of `more`, and of those that requests came with."""
        running: list[Binding[Adapter]] = [state.binding for state in self.loop.running]
        self._runner.serve([*self._registry.bindings, *running, *more])

    def _forget(self, sharers: set[str]) -> Freed:
        """Drop the pages of those sharers that no binding has now."""
        freed = [self._cache.forget(sharer) for sharer in sharers - self._registry.sharers]
        return Freed(sum(f.pages for f in freed), sum(f.bytes for f in freed))

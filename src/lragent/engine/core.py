"""The engine's inside: requests, adapters and pages under one lock."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.cache.layout import PageLayout
from lragent.cache.manager import CacheManager, Freed
from lragent.engine.errors import EngineClosedError, EngineError
from lragent.engine.loop import StepLoop
from lragent.engine.registry import AdapterRegistry
from lragent.engine.request_state import RequestState
from lragent.engine.runner import ModelRunner
from lragent.engine.scheduler import Scheduler
from lragent.sharing import Binding, alone
from lragent.sharing.group import Group


class EngineCore:
    """Keeps the step loop, the registry of adapters, the weights and the pages in agreement.

    Any thread may call it. `debug` proves the cache's books whenever the last request ends, and at
    close.

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
    ):
        self.lock = threading.RLock()
        self.loop = StepLoop(cache, runner, scheduler, layout.page_size)
        self._registry = registry
        self._layout = layout
        self._cache = cache
        self._runner = runner
        self._debug = debug
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

    # ---- requests

    def add(self, state: RequestState) -> None:
        """Queue a new request."""
        with self.lock, self._change():
            self.loop.add(state)

    def step(self) -> bool:
        """Run one forward pass; False when there is nothing to do."""
        with self.lock, self._change():
            self.check_open()
            ended = self.loop.step()
            if ended is None:
                return False
            self._after(ended)
            if self._debug and not self.loop.running:
                self._cache.check_integrity()
            return True

    def advance(self, state: RequestState) -> None:
        """Do a step for whoever waits, unless another caller's step brought something meanwhile."""
        with self.lock:
            if state.chunks or state.done:
                return
            if not self.step():
                raise RuntimeError(f"request {state.id} waits although nothing can run")

    def cancel(self, state: RequestState) -> None:
        """End a request that has not ended."""
        with self.lock, self._change():
            if not state.done:
                self.loop.end(state, "cancelled")
                self._after([state])

    def close(self) -> None:
        """Cancel what runs and refuse further work."""
        with self.lock, self._change():
            if self._closed:
                return
            for state in self.loop.running:
                self.loop.end(state, "cancelled")
            self._closed = True
            if self._debug:
                self._cache.check_integrity()

    def check_integrity(self) -> None:
        """Prove that no page is lost or held twice.

        Raises:
            IntegrityError: with every violated invariant.
        """
        with self.lock, self._change():
            self._cache.check_integrity()

    # ---- adapters

    def load(self, name: str, adapter: Adapter, group: Group[Adapter] | None) -> None:
        """Put an adapter under a name, and give back the pages that nobody can ask for any more.

        Raises:
            AdapterError: the pages do not fit it; nothing is changed.
        """
        with self.lock, self._change():
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
        with self.lock, self._change():
            self.check_open()
            before = self._registry.sharers
            self._registry.unload(name)
            self._hold_weights()
            return self._forget(before)

    # ---- inside

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Everything that changes cache, requests or adapters' weights happens in here."""
        if self._in_doubt:
            self._recover()
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

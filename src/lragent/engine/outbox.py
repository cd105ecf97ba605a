"""Where a request's chunks wait for its caller, and how its caller waits for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lragent.engine.outputs import Chunk


class Outbox:
    """Filled by the thread that steps; emptied and waited for by any other, or by an event loop.

    Attributes:
        chunks: pieces of the answers that the caller has not taken yet.
    """

    def __init__(self) -> None:
        self.chunks: deque[Chunk] = deque()
        self._watchers: list[tuple[Callable[[], object], bool]] = []

    def wake(self, ended: bool) -> None:
        """Let those who wait look again; those who wait for an end, only when one `ended`."""
        for callback, at_end in tuple(self._watchers):
            if ended or not at_end:
                with suppress(RuntimeError):  # the event loop that waited is closed
                    callback()

    @contextmanager
    def watched(self, callback: Callable[[], object], at_end: bool) -> Iterator[None]:
        """Have `callback` called in the stepping thread at each chunk, or only at an answer's end.

        What came before is not told: look after entering.
        """
        watcher = (callback, at_end)
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)

    def wait(self, ready: Callable[[], bool], at_end: bool) -> None:
        """Block until `ready()`, which is asked at each chunk, or only at an answer's end."""
        news = threading.Event()
        with self.watched(news.set, at_end):
            while not ready():
                news.wait()
                news.clear()

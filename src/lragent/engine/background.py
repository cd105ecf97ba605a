"""The thread that steps the engine while there is work."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable

from lragent.engine.errors import EngineClosedError

log = logging.getLogger(__name__)


class Background:
    """Steps whenever `wake` was called, until nothing is left to do; ends at `stop`.

    Args:
        step: runs one forward pass; False when there is nothing to do.
        give_up: ends every request with an error. Called when a step fails twice in a row outside
            of any request, so that no caller waits for ever; the thread goes on.
    """

    def __init__(self, step: Callable[[], bool], give_up: Callable[[BaseException], None]):
        self._step = step
        self._give_up = give_up
        self._work = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="lragent-engine", daemon=True)
        self._thread.start()
        atexit.register(self.stop)  # a daemon thread must not compute while Python goes down

    def wake(self) -> None:
        """Say that there is work."""
        self._work.set()

    def stop(self) -> None:
        """End the thread after the step that it is in, and wait for that."""
        atexit.unregister(self.stop)
        self._stopped = True
        self._work.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        failed = False
        while not self._stopped:
            self._work.wait()
            self._work.clear()
            try:
                while not self._stopped and self._step():
                    failed = False
            except EngineClosedError:
                return
            except BaseException as error:  # of no request: the next step begins with emptied books
                log.exception("a step of the engine failed")
                if failed:
                    self._give_up(error)
                else:
                    self._work.set()
                failed = not failed

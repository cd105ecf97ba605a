"""Engines that share a device measure in turns, so that what is slow is slow for all of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PAUSE = 0.005  # seconds between two looks; engines that wait share the core of the one that works


@dataclass(frozen=True)
class Turns:
    """This engine's place among those that measure in turns.

    All of them have to take the same number of turns.

    Attributes:
        folder: empty at first, the same for all; none is needed for one engine.
        place: 0 to ``count - 1``.
        count: engines.
        most: policies measured on the engine that has most of them, where turns are taken inside
            of a policy.
    """

    folder: Path | None = None
    place: int = 0
    count: int = 1
    most: int = 0

    def begin(self) -> None:
        """Wait until all engines are ready.

        From then on this thread stays on one core, the same for all engines: cores of a shared host
        differ in speed, and a process may stay on one for minutes.
        """
        if self.count == 1:
            return
        if hasattr(os, "sched_setaffinity"):  # not on every system
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        folder = self._folder
        (folder / f"ready-{self.place}").touch()
        _wait(lambda: all((folder / f"ready-{n}").exists() for n in range(self.count)))

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for this engine's turn; the next one's comes when the block ends."""
        if self.count == 1:
            yield
            return
        path = self._folder / "turn"
        number = 0

        def mine() -> bool:
            nonlocal number
            number = int(path.read_text()) if path.exists() else 0
            return number % self.count == self.place

        _wait(mine)
        yield
        part = path.with_suffix(".part")
        part.write_text(str(number + 1))
        part.replace(path)

    def padded(self, policies: Sequence[str]) -> list[str | None]:
        """This engine's policies, and None for each that only another engine still has."""
        return [*policies, *[None] * (self.most - len(policies))]

    @property
    def _folder(self) -> Path:
        assert self.folder is not None, "engines that take turns need a folder"
        return self.folder


def _wait(done: Callable[[], bool]) -> None:
    """Return when done; end this process when the one that started it has ended."""
    parent = os.getppid()
    while not done():
        if os.getppid() != parent:
            raise SystemExit("the benchmark that started this engine has ended")
        time.sleep(PAUSE)

"""Lets one kind of call fail at its first, second, … time, until the work is done before that.

For every part of the package that must survive failures; see `test_failures` for its use.
"""

from __future__ import annotations

import functools
import itertools
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """Where something can fail.

    Attributes:
        error: what such a call raises; a new one each time.
        calls: pairs of a module or class and the name of its function.
    """

    error: Callable[[], BaseException]
    calls: tuple[tuple[Any, str], ...]

    @contextmanager
    def failing(self, at: int) -> Iterator[list[int]]:
        """Call number ``at`` fails, counted over all of ``calls``; yields the count so far."""
        count = [0]

        def counted(stock: Any) -> Any:
            @functools.wraps(stock)
            def call(*args: Any, **kwargs: Any) -> Any:
                count[0] += 1
                if count[0] == at:
                    raise self.error()
                return stock(*args, **kwargs)

            return call

        stock = [getattr(owner, name) for owner, name in self.calls]
        try:
            for (owner, name), function in zip(self.calls, stock, strict=True):
                setattr(owner, name, counted(function))
            yield count
        finally:
            for (owner, name), function in zip(self.calls, stock, strict=True):
                setattr(owner, name, function)


def until_success(
    point: Point, work: Callable[[], object], check: Callable[[], object], most: int = 200
) -> int:
    """Do the work with failures at ever later calls; returns how many calls it makes.

    Args:
        point: what fails.
        work: takes typed errors itself; anything else that escapes fails the test.
        check: runs without failures after each: integrity, and that the work can be done now.
        most: calls at which it is given up.
    """
    for at in itertools.count(1):
        with point.failing(at) as count:
            work()
        check()
        if count[0] < at:
            assert at > 1, "the point is never reached"
            return at - 1
        assert at < most, "does not come to an end"
    raise AssertionError


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """As on a disk that is full: what would make a file longer fails, in part or as a whole."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def until_it_fits(work: Callable[[], bool], check: Callable[[], object], step: int = 97) -> int:
    """Do work that writes files on an ever less full disk; returns how often it failed.

    Args:
        work: says whether it succeeded; takes typed errors itself.
        check: as for `until_success`.
        step: bytes that there is more room each time.
    """
    for failed in itertools.count():
        with no_file_longer_than(failed * step):
            done = work()
        check()
        if done:
            assert failed, "nothing is written"
            return failed
        assert failed < 1000, "does not come to an end"
    raise AssertionError

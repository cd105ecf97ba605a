"""Runs sessions on an engine and takes the times: one loop for one stream, many, and open loops."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        agent: index of the adapter; None for the bare base model.
        prompt: token ids.
        new_tokens: how many are generated.
        page: newest tokens of the prompt, from the last tool's output on; 0 without one.
    """

    agent: int | None
    prompt: Sequence[int]
    new_tokens: int
    page: int = 0


Session = Generator[Ask, Sequence[int], None]
"""Yields requests one after the other; is sent the generated tokens of each."""


@dataclass(frozen=True)
class Progress:
    """What one step gave one request."""

    key: str
    tokens: Sequence[int]
    finished: bool


class Engine(Protocol):
    """What is measured."""

    def submit(self, key: str, ask: Ask) -> None:
        """Queue a request."""
        ...

    def step(self) -> Sequence[Progress]:
        """Run one step; returns what it generated."""
        ...

    def abort(self, keys: Sequence[str]) -> None:
        """Drop requests."""
        ...


@dataclass(frozen=True)
class Timing:
    """One request's times, in seconds since the run began.

    Attributes:
        session: index of its session.
        started: when it was due: the session's arrival, or the end of the request before.
        first: when its first token was there; None when the run was given up before.
        done: when its last token was there; None likewise.
        tokens: generated tokens.
    """

    session: int
    started: float
    first: float | None
    done: float | None
    tokens: int


@dataclass(frozen=True)
class Run:
    """All requests of a run in the order of their ends, and the time until it was over.

    Attributes:
        timings: one a request.
        seconds: from the first arrival to the last token.
        given_up: whether requests were left when the time was over.
    """

    timings: Sequence[Timing]
    seconds: float
    given_up: bool = False


@dataclass
class _Open:
    session: int
    started: float
    first: float | None = None
    tokens: list[int] = field(default_factory=list)


def drive(
    engine: Engine,
    sessions: Sequence[tuple[float, Session]],
    give_up: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Run:
    """Run every session from its arrival to its end.

    Args:
        engine: submits and steps.
        sessions: arrival in seconds from now, and the session; in the order of arrival.
        give_up: seconds after which the requests that are left are dropped.
        clock: seconds.
        sleep: waits, when nothing is to do before the next arrival.
    """
    waiting = [(due, index, session) for index, (due, session) in enumerate(sessions)]
    waiting.reverse()
    firsts = {index: next(session) for _, index, session in waiting}
    open_: dict[str, _Open] = {}
    timings: list[Timing] = []
    counter = 0
    begin = clock()

    def submit(session: int, ask: Ask, started: float) -> None:
        nonlocal counter
        key = f"{session}-{counter}"
        counter += 1
        open_[key] = _Open(session, started)
        engine.submit(key, ask)

    while waiting or open_:
        now = clock() - begin
        if give_up is not None and now > give_up:
            break
        while waiting and waiting[-1][0] <= now:
            due, index, _ = waiting.pop()
            submit(index, firsts.pop(index), due)
        if not open_:
            sleep(max(0.0, waiting[-1][0] - (clock() - begin)))
            continue
        progress = engine.step()
        now = clock() - begin
        for part in progress:
            request = open_[part.key]
            request.tokens += part.tokens
            if request.first is None and request.tokens:
                request.first = now
            if not part.finished:
                continue
            del open_[part.key]
            timings.append(
                Timing(request.session, request.started, request.first, now, len(request.tokens))
            )
            try:
                ask = sessions[request.session][1].send(request.tokens)
            except StopIteration:
                continue
            submit(request.session, ask, now)
    seconds = clock() - begin
    engine.abort(list(open_))
    timings += [Timing(o.session, o.started, o.first, None, len(o.tokens)) for o in open_.values()]
    # A session that never got its turn has waited too.
    timings += [Timing(index, due, None, None, 0) for due, index, _ in waiting if due < seconds]
    return Run(timings, seconds, given_up=bool(open_ or waiting))

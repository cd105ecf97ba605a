"""One HTTP request for text as requests of the engine: their pieces, their usage, their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request as HttpRequest
from fastapi import Response

from lragent.engine import Chunk, Completion, Request
from lragent.server.errors import CLIENT_CLOSED, ApiError, refusals
from lragent.server.protocol.common import Usage

T = TypeVar("T")

_ENDED_BY_SERVER = {
    "cancelled": (503, "the server stopped this request"),
    "deadline": (504, "the request took longer than its deadline"),
}


class Generation:
    """The requests of some prompts, `n` answers each. Answers count through all prompts."""

    def __init__(self, n: int):
        self._n = n
        self._requests: list[Request] = []
        self._over = False

    async def submit(self, submit: Callable[[], Iterable[Request]]) -> None:
        """Queue all prompts, or none when one is refused.

        `submit` runs in a thread: tokenizing takes time, and a step may hold the engine's lock.
        """

        def queue() -> None:
            for request in submit():
                self._requests.append(request)
                if self._over:  # the client has left meanwhile, which does not stop a thread
                    request.cancel()

        try:
            with refusals():
                await asyncio.to_thread(queue)
        except BaseException:
            self.cancel()
            raise

    async def answers(self) -> list[Completion]:
        """All answers at their end.

        Raises:
            GenerationFailedError, ApiError: one ended in another way than by its own.
        """
        try:
            results = await asyncio.gather(*(request.aresult() for request in self._requests))
        finally:
            self.cancel()
        answers = _all(results)
        for answer in answers:
            _check(answer.finish_reason)
        return answers

    async def pieces(self) -> AsyncGenerator[tuple[int, Chunk]]:
        """Answers' numbers and chunks as they come; leaving the loop early cancels all.

        Raises:
            GenerationFailedError, ApiError: as `answers`.
        """
        try:
            async with aclosing(_merged(self._requests)) as merged:
                async for place, chunk in merged:
                    _check(chunk.finish_reason)
                    yield place * self._n + chunk.index, chunk
        finally:
            self.cancel()

    def usage(self) -> Usage:
        """Tokens so far."""
        firsts = [request.completion() for request in self._requests]
        return Usage.of(
            sum(each.prompt_tokens for each in firsts),
            sum(len(each.token_ids) for each in _all(firsts)),
            sum(each.cached_tokens for each in firsts),
        )

    def cancel(self) -> None:
        """End what has not ended."""
        self._over = True
        # in a thread, since a step may hold the engine's lock
        loop = asyncio.get_running_loop()
        for request in self._requests:
            if not request.done:
                loop.run_in_executor(None, request.cancel)


async def unless_gone(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T | Response:
    """Do the work, and give it up when the client leaves."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else Response(status_code=CLIENT_CLOSED)
    finally:
        gone.cancel()
        task.cancel()


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _merged(requests: Sequence[Request]) -> AsyncGenerator[tuple[int, Chunk]]:
    """The chunks of all requests with their places, as they come."""
    if len(requests) == 1:
        async for chunk in requests[0]:
            yield 0, chunk
        return
    queue: asyncio.Queue[tuple[int, Chunk] | Exception | None] = asyncio.Queue()

    async def read(place: int, request: Request) -> None:
        try:
            async for chunk in request:
                queue.put_nowait((place, chunk))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    readers = [asyncio.ensure_future(read(place, each)) for place, each in enumerate(requests)]
    left = len(readers)
    try:
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()


def _all(firsts: Sequence[Completion]) -> list[Completion]:
    return [answer for first in firsts for answer in first.outputs]


def _check(reason: str | None) -> None:
    if reason in _ENDED_BY_SERVER:
        raise ApiError(*_ENDED_BY_SERVER[reason], code=reason)

"""The handle of a submitted request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import NoReturn

from lragent.cache.page import CachedPage
from lragent.engine.core import EngineCore
from lragent.engine.errors import GenerationFailedError
from lragent.engine.outbox import Outbox
from lragent.engine.outputs import Chunk, Completion, FinishReason
from lragent.engine.params import SamplingParams
from lragent.engine.request_state import RequestState


class Request:
    """Iterate over its chunks, or wait for its result; everything else is to read.

    Its caller does the engine's work while it waits, unless a thread in the background does. With
    `async for` and `aresult` it is always that thread. A handle that nobody holds any more cancels
    its request.

    With `n` above 1 it has that many answers: chunks tell them apart by their `index`, `result`
    has them in `outputs`, and what is to read here is of the first.
    """

    def __init__(self, states: Sequence[RequestState], outbox: Outbox, core: EngineCore):
        self._states = states
        self._state = states[0]
        self._outbox = outbox
        self._core = core

    def __repr__(self) -> str:
        state = self._state
        return (
            f"Request({state.id}, adapter={state.binding.name!r}, "
            f"{state.prompt_tokens} prompt tokens, {len(state.generated)} generated, "
            f"{state.finish_reason or 'running'})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a request's handle belongs to its engine, and can be neither pickled nor copied; pass "
            "its completion() on, and of engines start one in each process"
        )

    def __del__(self) -> None:
        self._drop()

    @property
    def id(self) -> int:
        """Its number in the engine."""
        return self._state.id

    @property
    def adapter(self) -> str | None:
        """Name of its adapter; None for the base model."""
        return self._state.binding.name

    @property
    def params(self) -> SamplingParams:
        """How it is decoded."""
        return self._state.params

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Token ids of the prompt."""
        return tuple(self._state.tokens[: self._state.prompt_tokens])

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Tokens generated so far."""
        return tuple(self._state.generated)

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that needed no computation; None while it waits for its first step."""
        return self._state.cached_tokens

    def cached_pages(self) -> list[CachedPage]:
        """The pages of its prompt and answer that the cache has now, for requests like it."""
        return self._core.cached_pages(self._state)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it runs."""
        return self._state.finish_reason

    @property
    def done(self) -> bool:
        """Whether no more tokens will come."""
        return all(state.done for state in self._states)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield chunks as they come; leaving the loop early cancels the request.

        Raises:
            GenerationFailedError: the forward pass failed.
        """
        chunks = self._outbox.chunks
        try:
            while True:
                done = self.done  # before the look, or the last chunk might come in between
                while chunks:
                    yield chunks.popleft()
                if done:
                    break
                self._core.wait(self._outbox, self._has_news)
        finally:
            self.cancel()
        self._check()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """Yield chunks as they come, without a thread of its own; see `__iter__`."""
        self._start()
        chunks, news = self._outbox.chunks, asyncio.Event()
        tell = asyncio.get_running_loop().call_soon_threadsafe
        try:
            with self._outbox.watched(lambda: tell(news.set), at_end=False):
                while True:
                    news.clear()
                    done = self.done
                    while chunks:
                        yield chunks.popleft()
                    if done:
                        break
                    if not chunks:
                        await news.wait()
        finally:
            self._drop()
        self._check()

    def cancel(self) -> None:
        """Stop now and give the pages back; what was generated stays in the result."""
        self._core.cancel(self._states)

    def result(self) -> Completion:
        """Wait for the end and return the whole answer.

        Raises:
            GenerationFailedError: the forward pass failed.
        """
        self._core.wait(self._outbox, lambda: self.done, at_end=True)
        return self._result()

    async def aresult(self) -> Completion:
        """Wait for the end without a thread of its own; see `result`. Cancelled with its task."""
        self._start()
        news = asyncio.Event()
        tell = asyncio.get_running_loop().call_soon_threadsafe
        try:
            with self._outbox.watched(lambda: tell(news.set), at_end=True):
                while not self.done:
                    news.clear()
                    if not self.done:
                        await news.wait()
        finally:
            self._drop()
        return self._result()

    def completion(self) -> Completion:
        """The answer as far as it came."""
        first, *others = [state.completion() for state in self._states]
        return replace(first, others=tuple(others)) if others else first

    def _start(self) -> None:
        if not self.done:
            self._core.start()

    def _has_news(self) -> bool:
        return bool(self._outbox.chunks) or self.done

    def _result(self) -> Completion:
        self._outbox.chunks.clear()
        self._check()
        return self.completion()

    def _check(self) -> None:
        for state in self._states:
            if state.finish_reason == "error":
                raise GenerationFailedError(state.error)

    def _drop(self) -> None:
        for state in self._states:
            if not state.done:
                self._core.drop(state)

"""From the body of a request for text to its answer, whole or as events."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

from fastapi import Request as HttpRequest
from fastapi import Response

from lragent.engine import Chunk, Completion, Request
from lragent.server import sse
from lragent.server.errors import ApiError
from lragent.server.generation import Generation, unless_gone
from lragent.server.protocol.common import Answer, GenerationBody, Usage
from lragent.server.state import ServerState

Prompt = str | Sequence[int]


class Form(ABC):
    """How one kind of request is read, and how the choices of its answer are written."""

    prefix: ClassVar[str]
    whole: ClassVar[type[Answer]]
    event: ClassVar[type[Answer]]
    count: int
    logprobs: int | None

    def __init__(self) -> None:
        self.requests: list[Request] = []  # one a prompt, as they are queued

    @abstractmethod
    def prompts(self) -> Sequence[Prompt]:
        """What to continue, `count` prompts. Called in a thread."""

    @abstractmethod
    def most_tokens(self, prompt: Prompt, room: int) -> int:
        """Most tokens to generate for a prompt, where context and cache hold `room` with it."""

    @abstractmethod
    def first_piece(self, index: int) -> Any:
        """The choice of an event that comes before any token; None for no such event."""

    @abstractmethod
    def piece(self, index: int, chunk: Chunk) -> Any:
        """The choice of an event."""

    @abstractmethod
    def choice(self, index: int, answer: Completion) -> Any:
        """A choice of the whole answer."""


async def respond(
    body: GenerationBody, form: Form, http: HttpRequest, state: ServerState
) -> Answer | Response:
    """Generate, and write what comes in the form that was asked for."""
    call = _Call(body, form, state)
    if not body.stream:
        return await unless_gone(http, call.answer())
    await call.generation.submit(call.submit)
    return sse.EventStream(call.events(), call.generation.cancel)


class _Call:
    def __init__(self, body: GenerationBody, form: Form, state: ServerState):
        n = body.n or 1
        most = state.options.max_answers
        if n * form.count > most:
            raise ApiError(
                400, f"{form.count} prompts with n={n} are more than this server's {most} answers"
            )
        self._body = body
        self._form = form
        self._state = state
        self._adapter = state.models.adapter(body.model)
        self._indices = range(n * form.count)
        self._head = {
            "id": f"{form.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model or state.models.base,
        }
        self.generation = Generation(n)

    def submit(self) -> Iterator[Request]:
        """Queue one prompt after the other. Called in a thread."""
        engine, form, body = self._state.engine, self._form, self._body
        for prompt in form.prompts():
            params = body.sampling(form.most_tokens(prompt, self._state.room), form.logprobs)
            request = engine.submit(
                prompt,
                params,
                adapter=self._adapter,
                cache_salt=body.cache_salt or "",
                deadline=body.deadline,
            )
            self._state.watch.add(request)
            form.requests.append(request)
            yield request

    async def answer(self) -> Answer:
        """The whole answer."""
        await self.generation.submit(self.submit)
        answers = await self.generation.answers()
        choices = [self._form.choice(*each) for each in enumerate(answers)]
        return self._form.whole(**self._head, choices=choices, usage=self.generation.usage())

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as events, from the first token on."""
        options = self._body.stream_options

        def event(*choices: Any, usage: Usage | None = None) -> bytes:
            return sse.event(self._form.event(**self._head, choices=list(choices), usage=usage))

        for first in map(self._form.first_piece, self._indices):
            if first is not None:
                yield event(first)
        async with aclosing(self.generation.pieces()) as pieces:
            async for index, chunk in pieces:
                yield event(self._form.piece(index, chunk))
        if options is not None and options.include_usage:
            yield event(usage=self.generation.usage())
        yield sse.DONE

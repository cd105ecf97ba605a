"""Server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from lragent.server.errors import as_api_error

DONE = b"data: [DONE]\n\n"
"""What OpenAI's streams end with."""


def event(data: BaseModel) -> bytes:
    """One event."""
    return f"data: {data.model_dump_json()}\n\n".encode()


class EventStream(StreamingResponse):
    """Events as they come; an error becomes the last one, since the status has gone out.

    `at_end` is called in any case, though the client may have left before the first event.
    """

    def __init__(self, events: AsyncIterator[bytes], at_end: Callable[[], None]):
        super().__init__(
            _with_errors(events),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._at_end()


async def _with_errors(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for each in events:
            yield each
    except Exception as error:
        yield f"data: {json.dumps(as_api_error(error).body())}\n\n".encode()

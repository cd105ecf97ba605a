"""What a request meets before any route: the key, and the limit on its body."""

from __future__ import annotations

import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lragent.server.errors import ApiError


class KeyGuard:
    """Asks everybody who comes to `/v1` for the key."""

    def __init__(self, app: ASGIApp, key: str):
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http" and _is_api(scope["path"]) and not self._holds_key(scope):
            error = ApiError(401, "this server needs its API key as bearer token", code="no_key")
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _holds_key(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        return kind.lower() == b"bearer" and secrets.compare_digest(token.strip(), self._key)


class BodyGuard:
    """Refuses bodies that are longer than `limit` bytes, before they are in memory."""

    def __init__(self, app: ASGIApp, limit: int):
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = ApiError(413, f"the body is longer than this server's limit of {self._limit} bytes")
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._limit:
            await error.response()(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise error
            return message

        await self._app(scope, counted, send)


def _is_api(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")

"""Errors in OpenAI's form."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lragent.engine.errors import (
    BudgetError,
    EngineClosedError,
    EngineError,
    GenerationFailedError,
    PromptTooLongError,
    QueueFullError,
    UnknownAdapterError,
)
from lragent.server.protocol.common import ErrorBody, ErrorDetail

log = logging.getLogger(__name__)

CLIENT_CLOSED = 499
"""For a client that left; nobody reads it, but metrics count it."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(HTTPException):
    """An error with everything that OpenAI's clients look at."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ):
        super().__init__(status, message)
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        server = "server_error" if self.status_code >= 500 else "invalid_request_error"
        detail = ErrorDetail.model_construct(  # a message may quote what is no Unicode
            message=self.detail,
            type=_TYPES.get(self.status_code, server),
            param=self.param,
            code=self.code,
        )
        return ErrorBody(error=detail).model_dump()

    def response(self) -> Response:
        """The whole answer. ASCII, since a message may quote what UTF-8 cannot hold."""
        headers = {"Retry-After": "1"} if self.status_code in (429, 503) else {}
        if self.status_code == 401:
            headers["WWW-Authenticate"] = "Bearer"
        text = json.dumps(self.body())
        return Response(text, self.status_code, headers, media_type="application/json")


def as_api_error(error: Exception) -> ApiError:
    """What to tell the client; of a bug the log says the rest."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            return ApiError(error.status_code, error.detail)
        case RequestValidationError():
            return _of_fields(error.errors())
        case UnknownAdapterError():
            return ApiError(404, str(error), param="model", code="model_not_found")
        case PromptTooLongError() | BudgetError():
            return ApiError(400, str(error), code="context_length_exceeded")
        case QueueFullError():
            return ApiError(429, str(error), code="queue_full")
        case EngineClosedError():
            return ApiError(503, "the server is stopping", code="stopping")
        case GenerationFailedError():
            return ApiError(500, str(error))
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed on this request; its log says why")


@contextmanager
def refusals() -> Iterator[None]:
    """Around a call with what a client sent: what is wrong about that becomes an `ApiError`."""
    try:
        yield
    except EngineError as error:
        raise as_api_error(error) from error
    except ValidationError as error:
        raise _of_fields(error.errors()) from error
    except (ValueError, TypeError) as error:  # AdapterError is one
        raise ApiError(400, str(error)) from error


def handle_errors(app: FastAPI) -> None:
    """Give every error of `app` this form."""

    async def answer(_: Request, error: Exception) -> Response:
        return as_api_error(error).response()

    for kind in (HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)
    app.add_middleware(_AnswerAll)


class _AnswerAll:
    """Answers what no handler took.

    Starlette's handler of `Exception` raises it again after the answer, and the HTTP server then
    closes a connection that the client goes on to use.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            await as_api_error(error).response()(scope, receive, send)


def _of_fields(problems: Sequence[Any]) -> ApiError:
    """One line a problem, and the first one's field as `param`."""
    lines, params = [], []
    for problem in problems:
        where = [str(part) for part in problem["loc"] if part != "body"]
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{'.'.join(where)}: {message}" if where else message)
        params.append(where[0] if where else None)
    return ApiError(400, "; ".join(dict.fromkeys(lines)), param=params[0])

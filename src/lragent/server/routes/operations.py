"""Health, numbers, and what the page reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lragent.server import sse
from lragent.server.errors import ApiError
from lragent.server.report import report_of
from lragent.server.state import ServerState, State
from lragent.sharing.report import Report

router = APIRouter()

_TICK_S = 0.25


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """To the page, which has the same place on a vLLM server."""
    return RedirectResponse("/lragent/")


@router.get("/health", response_class=Response)
async def health(state: State) -> Response:
    """Whether requests are taken."""
    if state.stopping.is_set():
        raise ApiError(503, "the server is stopping", code="stopping")
    return Response()


@router.get("/metrics", response_class=Response)
def metrics(state: State) -> Response:
    """Everything that is counted, for Prometheus."""
    return Response(generate_latest(state.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/lragent/stats", response_model=None)
def stats(state: State) -> dict[str, list[Report]]:
    """The engine's report, as the vLLM plugin has one for each of its engines."""
    return {"engines": [report_of(state.engine.stats(), state.models.unloaded)]}


@router.get("/v1/lragent/events", include_in_schema=False)
async def events(state: State) -> Response:
    """A stream without an end: the numbers, and the latest requests where they changed."""
    return sse.EventStream(_changes(state), lambda: None)


async def _changes(state: ServerState) -> AsyncIterator[bytes]:
    told: dict[int, object] = {}
    before: object = None
    while not state.stopping.is_set():
        seen = await asyncio.to_thread(state.watch.look)
        if seen is not before:
            new = [each for each in seen["requests"] if told.get(each["id"]) != each]
            told = {each["id"]: each for each in seen["requests"]}
            yield f"data: {json.dumps({**seen, 'requests': new, 'ids': list(told)})}\n\n".encode()
            before = seen
        await asyncio.sleep(_TICK_S)

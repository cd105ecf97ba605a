"""What the routes of one server share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from lragent.engine import Engine
from lragent.server.models import ServedModels
from lragent.server.options import ServerOptions
from lragent.server.watch import Watch


@dataclass(frozen=True)
class ServerState:
    """The engine and what stands around it.

    Attributes:
        room: tokens that prompt and answer of one request may have together.
        stopping: set when the server takes no more requests; streams without an end then end.
    """

    engine: Engine
    options: ServerOptions
    models: ServedModels
    watch: Watch
    registry: CollectorRegistry
    room: int
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


async def _state(request: Request) -> ServerState:
    # async, or it would take a thread for each request
    return request.app.state.lragent


State = Annotated[ServerState, Depends(_state)]
"""The state, for a route's signature."""

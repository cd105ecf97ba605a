"""The application: routes, guards, metrics and the page around one engine."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry

import lragent
from lragent import page
from lragent.engine import Engine
from lragent.server.errors import handle_errors
from lragent.server.guards import BodyGuard, KeyGuard
from lragent.server.metrics import CountResponses, EngineCollector
from lragent.server.models import ServedModels
from lragent.server.options import ServerOptions
from lragent.server.protocol.common import ErrorBody
from lragent.server.routes import chat, completions, models, operations
from lragent.server.state import ServerState
from lragent.server.watch import Watch


def create_app(engine: Engine, options: ServerOptions) -> FastAPI:
    """An ASGI application that serves `engine`, and leaves it open when it ends.

    Raises:
        ValueError: an adapter has the base model's name.
    """
    served = ServedModels(engine, options)
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine, served))
    app = FastAPI(
        title="lragent",
        version=lragent.__version__,
        docs_url=None,
        redoc_url=None,
        responses={"default": {"description": "An error.", "model": ErrorBody}},
    )
    app.state.lragent = ServerState(
        engine=engine,
        options=options,
        models=served,
        watch=Watch(engine, served, options.show_texts),
        registry=registry,
        room=min(
            engine.shape.max_positions,
            sum(engine.stats().pages.values()) * engine.layout.page_size,
        ),
    )
    for routes in (chat, completions, models, operations):
        app.include_router(routes.router)
    app.mount("/lragent", StaticFiles(directory=page.FOLDER, html=True))
    handle_errors(app)
    app.add_middleware(BodyGuard, limit=options.max_body_bytes)
    if options.api_key is not None:
        app.add_middleware(KeyGuard, key=options.api_key)
    app.add_middleware(CountResponses, registry=registry)
    return app

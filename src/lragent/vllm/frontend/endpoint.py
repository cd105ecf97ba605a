"""HTTP for vLLM's server: ``/v1/lragent/stats``, a page, and numbers in ``/metrics``.

vLLM loads it when it is named: ``VLLM_PLUGINS=lragent``. Paths that begin with ``/v1`` ask for the
server's API key, if it has one.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.staticfiles import StaticFiles
from prometheus_client import REGISTRY

from lragent import page
from lragent.sharing.metrics import ReportCollector
from lragent.sharing.report import Report
from lragent.vllm.frontend.engines import call_engines

_MAX_AGE_S = 1.0


class StatsEndpoint:
    """An endpoint plugin of vLLM."""

    name = "lragent"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._client: Any = None
        self._collector = ReportCollector()
        self._read_at = float("-inf")

    def attach_router(self, app: FastAPI) -> None:
        """Add the route and the page; refresh the numbers whenever ``/metrics`` is read."""
        app.mount("/lragent", StaticFiles(directory=page.FOLDER, html=True))

        @app.get("/v1/lragent/stats", response_model=None)
        async def stats() -> dict[str, list[Report]]:
            """The report of each engine, by data-parallel rank; at most a second old."""
            reports = await self._read()
            if not reports:
                raise HTTPException(404, "lragent is not switched on: see --additional-config")
            return {"engines": [reports[index] for index in sorted(reports)]}

        @app.middleware("http")
        async def refresh(request: Request, call_next: Any) -> Any:
            if request.url.path.rstrip("/") == "/metrics":
                await self._read()
            return await call_next(request)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Remember the engine."""
        self._client = engine_client
        REGISTRY.register(self._collector)

    async def _read(self) -> Mapping[int, Report]:
        if self._client is not None and time.monotonic() - self._read_at > _MAX_AGE_S:
            reports = await call_engines(self._client.engine_core, "lragent_report")
            self._collector.reports = {i: r for i, r in reports.items() if r is not None}
            self._read_at = time.monotonic()
        return self._collector.reports

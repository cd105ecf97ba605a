"""HTTP for vLLM's server: ``/lragent/stats``, and the plugin's numbers in ``/metrics``.

vLLM loads it when it is named: ``VLLM_PLUGINS=lragent``.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from prometheus_client import REGISTRY

from lragent.vllm.frontend.metrics import ReportCollector
from lragent.vllm.messages import Report

_MAX_AGE_S = 1.0


class StatsEndpoint:
    """An endpoint plugin of vLLM."""

    name = "lragent"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._client: Any = None
        self._collector = ReportCollector()
        self._read_at = 0.0

    def attach_router(self, app: FastAPI) -> None:
        """Add the route, and refresh the numbers whenever someone reads ``/metrics``."""

        @app.get("/lragent/stats")
        async def stats() -> Report:
            report = await self._read(max_age_s=0)
            if report is None:
                raise HTTPException(404, "lragent is not switched on: see --additional-config")
            return report

        @app.middleware("http")
        async def refresh(request: Request, call_next: Any) -> Any:
            if request.url.path.rstrip("/") == "/metrics":
                await self._read(_MAX_AGE_S)
            return await call_next(request)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Remember the engine."""
        self._client = engine_client
        REGISTRY.register(self._collector)

    async def _read(self, max_age_s: float) -> Report | None:
        if self._client is None:
            return None
        if time.monotonic() - self._read_at > max_age_s:
            core = self._client.engine_core
            self._collector.report = await core.call_utility_async("lragent_report")
            self._read_at = time.monotonic()
        return self._collector.report

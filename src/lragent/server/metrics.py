"""``/metrics``: what the vLLM plugin has, and what vLLM itself would have beside it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lragent.engine import Engine
from lragent.server.models import ServedModels
from lragent.server.report import report_of
from lragent.sharing.metrics import ReportCollector


class EngineCollector(Collector):
    """The engine's statistics when they are asked for. Blocks while a step runs."""

    def __init__(self, engine: Engine, models: ServedModels):
        self._engine = engine
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        stats = self._engine.stats()
        shared = ReportCollector()
        shared.reports = {0: report_of(stats, self._models.unloaded)}
        yield from shared.collect()
        live = GaugeMetricFamily("lragent_requests", "Requests by state.", labels=["state"])
        live.add_metric(["running"], stats.running)
        live.add_metric(["waiting"], stats.waiting)
        ended = CounterMetricFamily(
            "lragent_ended", "Requests that ended, by how.", labels=["model", "how"]
        )
        made = CounterMetricFamily(
            "lragent_generated_tokens", "Tokens of answers.", labels=["model"]
        )
        ttft = SummaryMetricFamily(
            "lragent_ttft_seconds", "Seconds to the first token.", labels=["model"]
        )
        for name, sums in stats.adapters.items():
            model = name or self._models.base
            for how in ("finished", "cancelled", "failed"):
                ended.add_metric([model, how], getattr(sums, how))
            made.add_metric([model], sums.generated_tokens)
            ttft.add_metric([model], sums.first_tokens, sums.ttft_s)
        yield from (live, ended, made, ttft)


class CountResponses:
    """Counts the answers of the HTTP server by route and status."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry):
        self._app = app
        self._count = Counter(
            "lragent_http_responses", "Answers by route and status.", ["route", "status"],
            registry=registry,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self._count.labels(route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted)

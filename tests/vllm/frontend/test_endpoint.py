"""The numbers over HTTP: every engine's, not more often than needed, and for key holders."""

# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY, generate_latest
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

from lragent.vllm.frontend import endpoint
from lragent.vllm.frontend.endpoint import StatsEndpoint

PATH = "/v1/lragent/stats"


def report(count: int) -> dict[str, Any]:
    return {
        "pages": {"total": 9, "leased": count, "cached": 1},
        "bytes": {"page": 1, "base": 2, "lr": 3, "lr_valid": 4},
        "requests": count,
        "tokens": dict.fromkeys(("prompt", "base_hit", "lr_hit", "reused", "recomputed"), count),
        "not_shared": {"not_seen": count},
        "unloaded": {"adapters": 0, "bytes": 0},
        "groups": [],
    }


class Cores:
    """vLLM's client of several engine cores."""

    def __init__(self, count: int, on: bool = True):
        self.core_engines = [rank.to_bytes(2, "little") for rank in range(count)]
        self.calls: list[str] = []
        self.on = on

    async def call_utility_async(self, method: str, *args: Any) -> Any:
        return await self._call_utility_async(method, *args, engine=self.core_engines[0])

    async def _call_utility_async(self, method: str, *args: Any, engine: bytes) -> Any:
        self.calls.append(method)
        return report(int.from_bytes(engine, "little") + 1) if self.on else None


@pytest.fixture
def made() -> Iterator[StatsEndpoint]:
    plugin = StatsEndpoint()
    yield plugin
    if plugin._client is not None:
        REGISTRY.unregister(plugin._collector)


def serve(plugin: StatsEndpoint, cores: Cores, tokens: list[str] | None = None) -> TestClient:
    app = FastAPI()
    plugin.attach_router(app)
    app.get("/metrics")(lambda: generate_latest(REGISTRY).decode())
    if tokens:
        app.add_middleware(AuthenticationMiddleware, tokens=tokens)
    client: Any = type("Client", (), {"engine_core": cores})
    asyncio.run(plugin.init_state(client, None, None))
    return TestClient(app)


def test_every_engine_has_its_own_numbers(made: StatsEndpoint):
    client = serve(made, Cores(2))
    assert [engine["requests"] for engine in client.get(PATH).json()["engines"]] == [1, 2]
    metrics = client.get("/metrics").json()
    for engine, count in (("0", 1.0), ("1", 2.0)):
        assert f'lragent_admissions_total{{engine="{engine}"}} {count}' in metrics
        assert f'lragent_pages{{engine="{engine}",state="leased"}} {count}' in metrics
        assert f'lragent_not_shared_total{{engine="{engine}",reason="not_seen"}}' in metrics


def test_engines_are_asked_once_a_second(made: StatsEndpoint, monkeypatch: pytest.MonkeyPatch):
    cores = Cores(1)
    client = serve(made, cores)
    for path in (PATH, "/metrics", PATH):
        assert client.get(path).status_code == 200
    assert cores.calls == ["lragent_report"]
    monkeypatch.setattr(endpoint, "_MAX_AGE_S", -1)
    client.get(PATH)
    assert len(cores.calls) == 2


def test_the_servers_key_is_asked_for(made: StatsEndpoint):
    client = serve(made, Cores(1), tokens=["secret"])
    assert client.get(PATH).status_code == 401
    assert client.get(PATH, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_the_page_needs_no_key(made: StatsEndpoint):
    client = serve(made, Cores(1), tokens=["secret"])
    answer = client.get("/lragent/")
    assert (answer.status_code, answer.headers["content-type"][:9]) == (200, "text/html")
    assert client.get("/lragent/main.js").status_code == 200


def test_an_engine_without_the_option_has_none(made: StatsEndpoint):
    client = serve(made, Cores(1, on=False))
    assert client.get(PATH).status_code == 404
    assert "lragent_pages" not in client.get("/metrics").json()

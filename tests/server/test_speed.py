"""What HTTP costs, on the demo's model. Run alone: `pytest -m timing`."""

from __future__ import annotations

import statistics
import threading
import time

import pytest
from tests.server.serving import Served, options_of, over_http

from lragent.agents.demo import demo_adapters
from lragent.engine import Engine, SamplingParams

pytestmark = pytest.mark.timing
TOKENS = 48
NAMES = ("plan", "act", "reflect", None) * 2


def test_eight_streams_are_about_as_fast_as_without_http():
    with (
        Engine("smollm2", demo_adapters(), "neutral", background=True) as engine,
        over_http(engine, options_of()) as served,
    ):
        direct(engine, "warm-up")
        ratios = [direct(engine, f"a{i}") / streams(served, f"b{i}") for i in range(5)]
    print("throughput over HTTP / Engine:", ratios)
    assert statistics.median(ratios) >= 0.95


def direct(engine: Engine, salt: str) -> float:
    """Seconds of eight requests of the engine."""
    start = time.perf_counter()
    requests = [
        engine.submit(
            f"{i} {salt}",
            SamplingParams(max_tokens=TOKENS, ignore_eos=True),
            adapter=name,
            cache_salt=salt,
        )
        for i, name in enumerate(NAMES)
    ]
    for request in requests:
        for _ in request:
            pass
    return time.perf_counter() - start


def streams(served: Served, salt: str) -> float:
    """Seconds of the same requests as streams."""

    def read(place: int, name: str | None) -> None:
        wanted = {
            "model": name or "base", "prompt": f"{place} {salt}", "max_tokens": TOKENS,
            "temperature": 0, "ignore_eos": True, "stream": True, "cache_salt": salt,
        }  # fmt: skip
        with http.stream("POST", "/v1/completions", json=wanted) as answer:
            assert sum(line.startswith("data: ") for line in answer.iter_lines()) == TOKENS + 2

    with served.http() as http:
        readers = [threading.Thread(target=read, args=each) for each in enumerate(NAMES)]
        start = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return time.perf_counter() - start

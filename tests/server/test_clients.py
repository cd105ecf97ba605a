"""Clients that leave, that do not read, and that are many."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from benchmarks.server_load import storm
from tests.server.serving import KEY, Served, serving

from lragent.engine.request_state import RequestState
from lragent.server.generation import Generation
from lragent.server.watch import KEPT

ENDLESS: dict[str, Any] = {
    "model": "plan", "prompt": "On and on", "max_tokens": 1900, "ignore_eos": True
}  # fmt: skip


def cancelled(served: Served) -> int:
    return served.engine.stats().total.cancelled


def test_a_client_that_leaves_ends_its_request(served: Served):
    before = cancelled(served)
    with served.http() as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/completions", json=ENDLESS, timeout=0.3)
    served.idle()
    assert cancelled(served) == before + 1


@pytest.mark.parametrize("events", [0, 3])
def test_a_client_that_leaves_a_stream_ends_its_request(served: Served, events: int):
    before = cancelled(served)
    wanted = {**ENDLESS, "stream": True}
    with served.http() as http, http.stream("POST", "/v1/completions", json=wanted) as answer:
        lines = answer.iter_lines()
        for _ in range(events):
            next(lines)
    served.idle()
    assert cancelled(served) == before + 1


class FakeRequest:
    done = False

    def cancel(self) -> None:
        self.done = True


def test_a_client_that_leaves_while_its_request_is_queued_ends_it():
    began, goes_on, queued = threading.Event(), threading.Event(), FakeRequest()

    def submit() -> Iterator[Any]:
        began.set()
        goes_on.wait(10)
        yield queued

    async def leave() -> None:
        task = asyncio.ensure_future(Generation(1).submit(submit))
        while not began.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        goes_on.set()
        while not queued.done:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(leave(), 10))


def test_one_of_several_prompts_is_refused(served: Served, client: openai.OpenAI):
    before = served.engine.stats().total.requests
    with pytest.raises(openai.BadRequestError):
        client.completions.create(
            model="base", prompt=["fine", "x" * 3000], max_tokens=500, stream=True
        )
    served.idle()
    assert served.engine.stats().total.requests == before + 1, "the first was queued, then ended"


def test_a_slow_reader_holds_nobody_up(served: Served):
    wanted = {**ENDLESS, "max_tokens": 500, "logprobs": 20, "stream": True}
    body = json.dumps(wanted).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    host, port = served.url.removeprefix("http://").split(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        slow.sendall(head + body)
        served.idle()  # it was generated to its end, though nobody has read it
        with served.client() as client:
            assert client.completions.create(model="act", prompt="y", max_tokens=2).choices
        slow.settimeout(20)
        text = b""
        while b"[DONE]" not in text:
            text += slow.recv(65536)
        assert text.count(b"data: ") == 502  # tokens, end, [DONE]


def test_many_clients_for_a_few_seconds(adapters: dict[str, Any]):
    with serving(adapters, kv_bytes=2 << 20, max_waiting=64) as served:
        outcome = asyncio.run(storm(served.url, KEY, ("base", *adapters), clients=64, seconds=4))
        assert outcome.errors == []
        assert outcome.finished > 64
        assert outcome.left > 10
        served.idle()
        stats = served.engine.stats()
        assert stats.total.failed == 0
        assert stats.total.requests == stats.total.finished + stats.total.cancelled
        gc.collect()
        kept = sum(type(each) is RequestState for each in gc.get_objects())
        assert kept <= 2 * KEPT, "the page's latest ones, of one or two answers"

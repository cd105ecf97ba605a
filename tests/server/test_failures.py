"""Whatever fails inside the server: an error in OpenAI's form, and others notice nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from tests.proof.failures import Point, until_success
from tests.proof.points import LOAD, STEP, no_memory
from tests.server.serving import Served, error_of, refused, serving

from lragent.engine import SamplingParams
from lragent.engine.prompts import PromptEncoder
from lragent.engine.text_stream import TextStream
from lragent.server import sse
from lragent.server.routes import chat

ANSWER = {
    **STEP,
    "thread": Point(lambda: RuntimeError("can't start new thread"), ((asyncio, "to_thread"),)),
    "tokenizing": Point(no_memory, ((PromptEncoder, "render"),)),
    "text of a token": Point(no_memory, ((TextStream, "push"),)),
    "writing": Point(
        no_memory, ((chat._ChatForm, "choice"), (chat._ChatForm, "piece"), (sse, "event"))
    ),
}
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What do you see? " * 3}],
    "max_tokens": 2, "temperature": 0, "ignore_eos": True,
}  # fmt: skip
STREAM, WHOLE = CHAT | {"model": "plan", "stream": True}, CHAT | {"model": "act"}


@pytest.fixture(scope="module")
def served(adapters: dict[str, Path]) -> Iterator[Served]:
    """One request at a time, so that a step that fails is the step of one request."""
    members = {name: adapters[name] for name in ("plan", "act")}
    with serving(members, sharing="neutral", max_num_seqs=1, kv_bytes=256 << 10) as server:
        yield server


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    """Its connections stay open through all failures."""
    with served.http() as made:
        yield made


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    return http.post(f"/v1/{path}", json=body)


def both(http: httpx.Client) -> list[httpx.Response]:
    """A stream and a whole answer, asked for at once."""
    with ThreadPoolExecutor(2) as pool:
        return [*pool.map(partial(post, http, "chat/completions"), (STREAM, WHOLE))]


def read(answer: httpx.Response) -> tuple[str, bool]:
    """The text, as far as it came, and whether an error ended it."""
    if answer.status_code != 200:
        assert refused(answer, 500)["type"] == "server_error"
        return "", True
    if answer.headers["Content-Type"] == "application/json":
        return answer.json()["choices"][0]["message"]["content"], False
    *events, last, rest = answer.text.split("\n\n")
    assert not rest
    text = ""
    for event in events:
        [choice] = json.loads(event.removeprefix("data: "))["choices"]
        text += choice["delta"]["content"] or ""
    if last == "data: [DONE]":
        return text, False
    assert error_of(json.loads(last.removeprefix("data: ")))["type"] == "server_error"
    return text, True


@pytest.mark.parametrize("point", ANSWER)
def test_a_stream_and_a_whole_answer(served: Served, http: httpx.Client, point: str):
    """Who meets the failure gets it; the other's answer is what it is alone."""
    right = [read(answer) for answer in both(http)]
    assert not any(failed for _, failed in right)
    served.engine._cache.reset()
    got: list[list[httpx.Response]] = []
    errors: list[int] = []

    def check() -> None:
        found = [read(answer) for answer in got[-1]]
        for (text, failed), (expected, _) in zip(found, right, strict=True):
            assert expected.startswith(text) if failed else text == expected
        errors.append(sum(failed for _, failed in found))
        served.idle()
        assert [read(answer) for answer in both(http)] == right
        served.idle()
        served.engine._cache.reset()  # else the next attempt would find everything

    calls = until_success(ANSWER[point], lambda: got.append(both(http)), check)
    assert errors == [1] * calls + [0]


@pytest.mark.parametrize("point", LOAD)
def test_an_adapter_comes_and_goes(
    served: Served, http: httpx.Client, adapters: dict[str, Path], point: str
):
    """Beside a request that runs, which does not notice."""
    load = {"lora_name": "new", "lora_path": str(adapters["reflect"])}
    unload = {"lora_name": "new"}
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    alone = served.engine.generate("By the way", params, adapter="plan").token_ids
    got: list[tuple[httpx.Response, httpx.Response]] = []

    def come_and_go() -> tuple[httpx.Response, httpx.Response]:
        return post(http, "load_lora_adapter", load), post(http, "unload_lora_adapter", unload)

    def work() -> None:
        bystander = served.engine.submit("By the way", params, adapter="plan")
        got.append(come_and_go())
        assert bystander.result().token_ids == alone

    def check() -> None:
        for answer in got[-1]:
            if answer.status_code != 200:
                refused(answer, answer.status_code)
        loaded, unloaded = (answer.status_code == 200 for answer in got[-1])
        names = [each["id"] for each in http.get("/v1/models").json()["data"]]
        assert names == ["base", "plan", "act"] + ["new"] * (loaded and not unloaded)
        if "new" in names:
            assert post(http, "unload_lora_adapter", unload).status_code == 200
        assert post(http, "load_lora_adapter", load).status_code == 200
        text, failed = read(post(http, "chat/completions", STREAM | {"model": "new"}))
        assert (bool(text), failed) == (True, False)
        assert post(http, "unload_lora_adapter", unload).status_code == 200
        served.idle()

    until_success(LOAD[point], work, check)
    assert [answer.status_code for answer in got[0]] != [200, 200]
    assert [answer.status_code for answer in got[-1]] == [200, 200]

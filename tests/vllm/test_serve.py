"""`vllm serve` in processes of its own, and the openai client: what users run."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.engine.models import prompt_of
from tests.vllm.server_process import serve
from tests.vllm.serving import AGENTS, PAGE, Ask, Embedded, folders

CONTEXT = prompt_of(150)
FULL = len(CONTEXT) // PAGE * PAGE


@dataclass
class Server:
    url: str
    client: openai.OpenAI

    def complete(self, model: str, prompt: list[int], **more: Any) -> Any:
        extra = {"ignore_eos": True, "return_token_ids": True, **more.pop("extra", {})}
        return self.client.completions.create(
            model=model, prompt=prompt, max_tokens=8, temperature=0, extra_body=extra, **more
        )

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def post(self, path: str, **body: Any) -> tuple[int, str]:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stats(self) -> dict[str, Any]:
        return json.loads(self.get("/v1/lragent/stats"))["engines"][0]


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    option = {"policy": "base+lr", "groups": [list(AGENTS)], "allow_other_base": True}
    log = tmp_path_factory.mktemp("serve") / "log"
    more = ["--max-model-len", "512", "--additional-config", json.dumps({"lragent": option})]
    with serve(root / "llama", folders(root, "shared"), log, *more) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        yield Server(running.url, client)


def ids(answer: Any) -> tuple[int, ...]:
    return tuple(answer.choices[0].model_extra["token_ids"])


def cached(answer: Any) -> int:
    details = answer.usage.prompt_tokens_details
    return (details.cached_tokens or 0) if details else 0


def test_three_agents_share_and_report_it(server: Server, root: Path):
    with Embedded(folders(root, "shared"), "base+lr") as embedded:
        for turn, name in enumerate(AGENTS):
            answer = server.complete(name, CONTEXT)
            assert ids(answer) == embedded.ask(Ask(name, CONTEXT))[0].tokens
            assert cached(answer) == (FULL if turn else 0)
    assert cached(server.complete("base", CONTEXT)) == 0
    assert cached(server.complete("plan", CONTEXT, extra={"cache_salt": "tenant"})) == 0


def test_streaming(server: Server):
    whole = server.complete("act", CONTEXT)
    parts: list[int] = []
    for chunk in server.complete("act", CONTEXT, stream=True):
        parts += chunk.choices[0].model_extra.get("token_ids") or []
    assert tuple(parts) == ids(whole)


def test_stats_and_metrics(server: Server):
    server.complete("plan", CONTEXT)
    stats = server.stats()
    assert stats["tokens"]["reused"] >= 2 * FULL
    assert stats["pages"]["leased"] == 0
    assert (
        stats["bytes"]["base"] + stats["bytes"]["lr"]
        == stats["bytes"]["page"] * stats["pages"]["cached"]
    )
    assert set(stats["groups"][0]["members"]) >= {"act", "reflect"}
    lines = server.get("/metrics").splitlines()
    metrics = dict(line.rsplit(" ", 1) for line in lines if line.startswith("lragent_"))
    reused = 'lragent_reused_tokens_total{engine="0"}'
    assert float(metrics[reused]) == stats["tokens"]["reused"]
    pages = 'lragent_pages{engine="0",state="cached"}'
    assert float(metrics[pages]) == stats["pages"]["cached"]
    assert 'lragent_not_shared_total{engine="0",reason="not_seen"}' in metrics
    assert "agents and their cache" in server.get("/lragent/")
    assert "export" in server.get("/lragent/feed.js")


def test_a_bad_adapter_is_an_error_of_its_load(server: Server, root: Path, tmp_path: Path):
    bad = tmp_path / "bad"
    shutil.copytree(root / "shared" / "plan", bad)
    config = json.loads((bad / "adapter_config.json").read_text())
    (bad / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    status, message = server.post("/v1/load_lora_adapter", lora_name="bad", lora_path=str(bad))
    assert status >= 400
    assert "adapter 'bad': " in message, "vLLM takes the path out"
    assert "DoRA" in message
    with pytest.raises(openai.NotFoundError):
        server.complete("bad", CONTEXT)
    assert server.complete("plan", CONTEXT)


def test_an_adapter_that_is_not_there(server: Server, tmp_path: Path):
    """As vLLM answers without the plugin."""
    missing = str(tmp_path / "missing")
    status, message = server.post("/v1/load_lora_adapter", lora_name="none", lora_path=missing)
    assert status == 404
    assert "none" in message


def test_a_cancelled_stream(server: Server):
    stream = server.complete("plan", prompt_of(100, 5), stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 20
    while server.stats()["pages"]["leased"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert server.stats()["pages"]["leased"] == 0
    assert server.complete("plan", CONTEXT)


def test_load_and_unload_in_use(server: Server, root: Path):
    path = str(root / "own" / "act")
    assert server.post("/v1/load_lora_adapter", lora_name="guest", lora_path=path)[0] == 200
    before = server.complete("guest", CONTEXT)
    assert cached(server.complete("guest", CONTEXT)) == FULL
    stream = server.client.completions.create(
        model="guest", prompt=CONTEXT, max_tokens=200, temperature=0, stream=True,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )  # fmt: skip
    first = next(iter(stream))
    status, message = server.post("/v1/unload_lora_adapter", lora_name="guest")
    assert status == 200
    assert "bytes of KV cache were freed" in message
    rest = [*(first.choices[0].model_extra or {}).get("token_ids", [])]
    for chunk in stream:
        rest += (chunk.choices[0].model_extra or {}).get("token_ids") or []
    assert len(rest) == 200
    assert tuple(rest[:8]) == ids(before)
    with pytest.raises(openai.NotFoundError):
        server.complete("guest", CONTEXT)
    # Other weights under the same name: nothing of the old ones is served.
    path = str(root / "own" / "reflect")
    assert server.post("/v1/load_lora_adapter", lora_name="guest", lora_path=path)[0] == 200
    after = server.complete("guest", CONTEXT)
    assert cached(after) == 0
    assert ids(after) != ids(before)

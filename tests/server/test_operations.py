"""Health, numbers, the feed of the page, and a good end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.server.serving import Served, options_of, serving
from typer.testing import CliRunner

from lragent.cli.main import app

LONG = "A text that several agents read, one after the other. " * 4


def events(http: httpx.Client) -> Generator[dict[str, Any]]:
    with http.stream("GET", "/v1/lragent/events") as feed:
        for line in feed.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_numbers_are_the_engines(adapters: dict[str, Path]):
    with serving(adapters) as served, served.http() as http, served.client() as client:
        for model in ("plan", "act", "act", "base"):
            client.completions.create(model=model, prompt=LONG, max_tokens=4, temperature=0)
        served.idle()
        [report] = http.get("/v1/lragent/stats").json()["engines"]
        stats = served.engine.stats()
        assert report["tokens"]["reused"] == stats.total.reused_tokens > 300
        assert report["not_shared"] == {"not_seen": 1, "policy": 1}
        used = report["bytes"]["base"] + report["bytes"]["lr"]
        assert used == report["bytes"]["page"] * report["pages"]["cached"]
        # plan's and act's prompt would be there twice, and the base model's stands alone anyway
        assert 1.4 < report["bytes"]["isolated"] / used < 1.6
        [group] = report["groups"]
        assert group["policy"] == "base+lr"
        assert {name: member["slot"] for name, member in group["members"].items()} == {
            "plan": 0, "act": 0, "reflect": 0,
        }  # fmt: skip
        metrics = http.get("/metrics").text
        for line in (
            f'lragent_reused_tokens_total{{engine="0"}} {float(stats.total.reused_tokens)}',
            'lragent_ended_total{how="finished",model="act"} 2.0',
            'lragent_generated_tokens_total{model="base"} 4.0',
            'lragent_ttft_seconds_count{model="plan"} 1.0',
            'lragent_requests{state="running"} 0.0',
            'lragent_http_responses_total{route="/v1/completions",status="200"} 4.0',
        ):
            assert line in metrics.splitlines()


def test_the_feed_shows_a_hand_over(adapters: dict[str, Path]):
    with serving(adapters) as served, served.http() as http, served.client() as client:
        feed = events(http)
        assert next(feed)["requests"] == []
        size = served.engine.layout.page_size
        for model in ("plan", "act"):
            client.completions.create(model=model, prompt=LONG, max_tokens=20, temperature=0)
        seen: dict[int, Any] = {}
        told: dict[str, Any] = {}
        while not (len(seen) == 2 and all(each["finish_reason"] for each in seen.values())):
            told = next(feed)
            seen |= {each["id"]: each for each in told["requests"]}
        feed.close()
        plan, act = (seen[number] for number in told["ids"])
        assert (plan["adapter"], act["adapter"]) == ("plan", "act")
        assert plan["cached_tokens"] == 0
        first = act["pages"][0]
        assert (first["users"], first["slots"]) == (["plan", "act"], [0])
        assert first["count"] == act["cached_tokens"] // size == len(LONG) // size
        assert sum(run["count"] for run in act["pages"]) == (len(LONG) + 20) // size
        assert act["text"] == served.engine.generate(LONG, adapter="act").text[: len(act["text"])]
        assert 0 < act["ttft_s"] < act["total_s"]


def test_texts_can_be_kept_from_the_page():
    with serving({}, options_of(show_texts=False)) as served, served.http() as http:
        http.post("/v1/completions", json={"prompt": "secret"})
        assert next(events(http))["requests"][0]["text"] is None


def test_what_needs_no_key(served: Served):
    with httpx.Client(base_url=served.url) as http:
        assert http.get("/health").status_code == 200
        page = http.get("/", follow_redirects=True)
        assert page.url.path == "/lragent/"
        assert page.headers["Content-Type"].startswith("text/html")
        for name in re.findall(r'(?:src|href)="([^":]+)"', page.text):
            assert http.get(f"/lragent/{name}").status_code == 200


def test_a_stop_lets_requests_finish_and_refuses_new_ones():
    with serving({}) as served, served.client() as client:
        stream = client.completions.create(
            model="base", prompt="x", max_tokens=300, stream=True,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        next(stream)
        served.server.should_exit = True
        assert [event.choices[0].finish_reason for event in stream][-1] == "length"
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_a_stop_cancels_what_takes_too_long():
    with serving({}, options_of(grace_s=0.2)) as served, served.client() as client:
        endless: dict[str, Any] = {
            "model": "base", "prompt": "x", "max_tokens": 2000, "extra_body": {"ignore_eos": True}
        }  # fmt: skip
        stream = client.completions.create(**endless, stream=True)
        next(stream)
        seen: list[BaseException] = []

        def whole() -> None:
            try:
                client.completions.create(**endless)
            except openai.OpenAIError as error:
                seen.append(error)

        other = threading.Thread(target=whole)
        other.start()
        while served.engine.stats().running < 2:
            pass
        served.server.should_exit = True
        with pytest.raises(openai.APIError, match="the server stopped this request"):
            list(stream)
        other.join(20)
        assert isinstance(seen[0], openai.InternalServerError)
        assert seen[0].status_code == 503


def test_an_address_in_use_is_said_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", "--model", "/no/folder", "--port", port])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in result.stderr


def test_the_command(tmp_path: Path, adapters: dict[str, Path]):
    from tests.engine.tokenizer import byte_tokenizer
    from tests.server.serving import byte_llama

    model = tmp_path / "bytes"
    byte_llama().save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    command = [
        sys.executable, "-c", "from lragent.cli.main import app; app()", "serve",
        "--model", str(model), "--port", "0",
        "--adapter", f"plan={adapters['plan']}", "--sharing", "base+lr",
        "--served-model-name", "tiny", "--kv-mib", "4",
    ]  # fmt: skip
    env = {**os.environ, "LRAGENT_API_KEY": "secret", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "http://" in line)
            found = re.search(r"http://[\d.:]+/v1", line)
            assert found is not None
            assert "tiny and 1 adapters under base+lr" in line
            with openai.OpenAI(base_url=found[0], api_key="secret") as client:
                assert [each.id for each in client.models.list()] == ["tiny", "plan"]
                assert client.completions.create(model="plan", prompt="x").choices
                assert growth(client, process.pid) < 64 << 20
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def growth(client: openai.OpenAI, pid: int) -> int:
    """Bytes by which memory grows with prompts of ever new lengths, which have kernels of their
    own each, when the caches of kernels are full."""
    resident = []
    for lengths in (range(1, 65), range(65, 120)):
        for length in lengths:
            prompt = [length + 3] * length
            client.completions.create(model="tiny", prompt=prompt, max_tokens=1)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
    return resident[1] - resident[0]

"""`lragent run` against an OpenAI-compatible server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.agents.scripted import step
from typer.testing import CliRunner

from lragent.cli.main import app

runner = CliRunner()
REPLIES = [*step("I know.", "Finish", "1873"), " It is.", "right"]


class Handler(BaseHTTPRequestHandler):
    """Lists models, and streams the replies in order."""

    asked: list[dict[str, object]]

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model"} for name in ("base", "p", "a")]
        self._send("application/json", json.dumps({"object": "list", "data": models}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = REPLIES[len(self.asked)]
        self.asked.append(body)
        common = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "p"}
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
        usage = {
            "prompt_tokens": 50,
            "completion_tokens": 4,
            "total_tokens": 54,
            "prompt_tokens_details": {"cached_tokens": 48},
        }
        events = [{**common, "choices": [choice]}, {**common, "choices": [], "usage": usage}]
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        self._send("text/event-stream", lines + "data: [DONE]\n\n")

    def _send(self, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, object]]]]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1", Handler.asked
        http.shutdown()


def ask(docs: Path, url: str, *options: str) -> list[str]:
    return ["run", "--question", "When?", "--docs", str(docs), "--base-url", url, *options]


def test_adapters_are_models_of_the_server(
    docs: Path, server: tuple[str, list[dict[str, object]]]
) -> None:
    url, asked = server
    options = ["--adapter", "plan=p", "--adapter", "act=a", "--json"]
    result = runner.invoke(app, ask(docs, url, *options))
    assert result.exit_code == 0, result.stderr
    trace = json.loads(result.stdout)
    assert (trace["answer"], trace["sharing"], trace["reused_tokens"]) == ("1873", None, 240)
    assert [body["model"] for body in asked] == ["p", "p", "a", "base", "base"]


def test_unknown_model_of_the_server(
    docs: Path, server: tuple[str, list[dict[str, object]]]
) -> None:
    result = runner.invoke(app, ask(docs, server[0], "--model", "bose"))
    assert result.exit_code == 1
    assert "has no model 'bose'; did you mean 'base'?" in result.stderr
    assert server[1] == []


def test_no_server(docs: Path) -> None:
    result = runner.invoke(app, ask(docs, "http://127.0.0.1:9/v1"))
    assert result.exit_code == 1
    assert "http://127.0.0.1:9/v1 does not list its models" in result.stderr

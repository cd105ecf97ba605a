from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lragent.agents import BackendError, CallParams, CallUsage, ContextOverflowError
from lragent.agents.openai_backend import OpenAIBackend

MESSAGES = [{"role": "user", "content": "Question: What?"}, {"role": "assistant", "content": "So"}]


@dataclass
class Server:
    """Answers every request with `events` as a stream, or with an error."""

    url: str = ""
    status: int = 200
    events: list[dict[str, Any]] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def answer(self) -> bytes:
        if self.status != 200:
            return json.dumps(self.events[0]).encode()
        lines = [f"data: {json.dumps(event)}\n\n" for event in self.events]
        return "".join([*lines, "data: [DONE]\n\n"]).encode()

    def backend(self, **options: Any) -> OpenAIBackend:
        return OpenAIBackend(self.url, base_model="base", timeout=10, **options)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            state.sent.append(json.loads(self.rfile.read(length)))
            kind = "text/event-stream" if state.status == 200 else "application/json"
            self.send_response(state.status)
            self.send_header("Content-Type", kind)
            # A 500 is tried again by the client unless told not to.
            self.send_header("x-should-retry", "false")
            self.end_headers()
            self.wfile.write(state.answer())

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def usage(**details: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": 40, "completion_tokens": 3, "total_tokens": 43, **details}
    return {"id": "1", "object": "chat.completion.chunk", "choices": [], "usage": counts}


def test_request_and_answer(server: Server):
    counts = usage(prompt_tokens_details={"cached_tokens": 32})
    server.events = [piece(" Re"), piece("trieve", "stop"), counts]
    params = CallParams(max_tokens=8, stop=("[", "\n"), temperature=0.5, top_p=0.9, seed=3)
    backend = server.backend(cache_salt="tenant")
    chunks = list(backend.complete(MESSAGES, adapter="plan", params=params))
    assert [chunk.text for chunk in chunks] == [" Re", "trieve", ""]
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage == CallUsage(40, 3, 32)
    assert server.sent == [
        {
            "model": "plan",
            "messages": MESSAGES,
            "max_tokens": 8,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 3,
            "stop": ["[", "\n"],
            "stream": True,
            "stream_options": {"include_usage": True},
            "continue_final_message": True,
            "add_generation_prompt": False,
            "cache_salt": "tenant",
        }
    ]


def test_without_adapter_salt_and_details(server: Server):
    server.events = [piece("x", "length"), usage()]
    chunks = list(server.backend().complete(MESSAGES, adapter=None, params=CallParams(1)))
    assert chunks[-1].usage == CallUsage(40, 3, None)
    assert server.sent[0]["model"] == "base"
    assert not {"cache_salt", "stop", "seed"} & {k for k, v in server.sent[0].items() if v}


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "This model's maximum context length is 2048 tokens", ContextOverflowError),
        (404, "The model `plan` does not exist", BackendError),
        (500, "out of memory", BackendError),
    ],
)
def test_server_errors(server: Server, status: int, message: str, kind: type[Exception]):
    server.status, server.events = status, [{"error": {"message": message}}]
    with pytest.raises(BackendError, match=f"answered {status}") as caught:
        list(server.backend().complete(MESSAGES, adapter="plan", params=CallParams(1)))
    assert type(caught.value) is kind
    assert message in str(caught.value)


def test_unreachable_server():
    backend = OpenAIBackend("http://127.0.0.1:9/v1", timeout=5)
    with pytest.raises(BackendError, match=r"no answer from http://127\.0\.0\.1:9/v1/"):
        list(backend.complete(MESSAGES, adapter="plan", params=CallParams(1)))

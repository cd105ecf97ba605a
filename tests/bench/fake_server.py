"""An OpenAI-compatible server without a model, with a prefix cache and a price for each token."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ADAPTERS = ("plan", "act", "reflect")


@dataclass
class Behaviour:
    """How the server behaves.

    Attributes:
        groups: cache that each adapter uses; its own when not named.
        caches: whether prefixes are cached at all.
        tells: whether usage has `cached_tokens`, and only where some were cached, as in vLLM.
        token_s: seconds for each token that is not cached (a token is four characters).
        call_s: seconds for each call.
        seen: prompts by cache.
    """

    groups: dict[str, str] = field(default_factory=dict)
    caches: bool = True
    tells: bool = True
    token_s: float = 1e-3
    call_s: float = 0.002
    seen: dict[str, list[str]] = field(default_factory=dict)

    def cached(self, model: str, prompt: str) -> int:
        """Tokens of the prompt that are there already; the prompt is remembered."""
        known = self.seen.setdefault(self.groups.get(model, model), [])
        best = max((_common(prompt, old) for old in known), default=0)
        known.append(prompt)
        return min(best, len(prompt) - 1) // 4 if self.caches else 0


def _common(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _handler(behaviour: Behaviour) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/v1/models":
                self.send_error(404)
                return
            models: list[dict[str, Any]] = [{"id": "base", "object": "model", "parent": None}]
            models += [{"id": name, "object": "model", "parent": "base"} for name in ADAPTERS]
            data = json.dumps({"object": "list", "data": models}).encode()
            self._start("application/json")
            self.wfile.write(data)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt, count = body["prompt"], body["max_tokens"]
            total = len(prompt) // 4
            cached = behaviour.cached(body["model"], prompt)
            time.sleep(behaviour.call_s + behaviour.token_s * (total - cached))
            self._start("text/event-stream")
            usage: dict[str, Any] = {
                "prompt_tokens": total,
                "completion_tokens": count,
                "total_tokens": total + count,
            }
            if behaviour.tells and cached:
                usage["prompt_tokens_details"] = {"cached_tokens": cached}
            common = {"id": "c", "object": "text_completion", "created": 0, "model": body["model"]}
            for _ in range(count):
                choice = {"index": 0, "text": " word", "finish_reason": None, "logprobs": None}
                self._event({**common, "choices": [choice]})
            self._event({**common, "choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

        def _start(self, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()

        def _event(self, event: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    return Handler


@contextmanager
def fake_server(behaviour: Behaviour) -> Iterator[str]:
    """Its address, up to ``/v1``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(behaviour)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()

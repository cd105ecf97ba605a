"""The part over HTTP: lengths of prompts, who is asked, and times read off a stream."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from benchmarks.serving.chat import Documents, kinds_of, rows_of
from benchmarks.serving.server import Answer, ServerError, ask
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WAIT = 0.2


class Stand(BaseHTTPRequestHandler):
    """Streams one chunk after a while, and the usage."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["stream"]
        status = 200 if body["model"] == "plan" else 404
        self.send_response(status)
        self.end_headers()
        time.sleep(WAIT)
        usage = {"prompt_tokens": 40, "prompt_tokens_details": {"cached_tokens": 32}}
        for event in ({"choices": [{}]}, {"choices": [], "usage": usage}):
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.flush()
            time.sleep(WAIT)
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def connection() -> Iterator[http.client.HTTPConnection]:
    server = HTTPServer(("127.0.0.1", 0), Stand)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield http.client.HTTPConnection("127.0.0.1", server.server_port)
    server.shutdown()
    server.server_close()


def test_time_is_that_of_the_first_chunk(connection: http.client.HTTPConnection):
    answer = ask(connection, "plan", [], 8)
    assert answer[1:] == (40, 32)
    assert WAIT <= answer.ttft_s < 2 * WAIT


def test_a_refusal_is_told(connection: http.client.HTTPConnection):
    with pytest.raises(ServerError, match="404"):
        ask(connection, "nobody", [], 8)


def test_documents_have_their_length_and_words_of_their_own():
    words = [f"Ġ{a}{b}{c}" for a in "abcd" for b in "efg" for c in "hij"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocab = {token: i for i, token in enumerate([*sorted(alphabet), *words])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="a"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template)
    documents = Documents(tokenizer)
    one, other = (documents.messages(200, seed) for seed in ("1", "2"))
    assert one != other
    text: Any = tokenizer.apply_chat_template(one, tokenize=False)
    assert abs(len(tokenizer(text)["input_ids"]) - 200) <= 1


@pytest.mark.parametrize(
    ("policy", "kinds", "agents"),
    [("base+lr", {"cold", "warm", "hand-over"}, 3), ("stock-one", {"cold", "warm"}, 1)],
)
def test_who_is_asked(policy: str, kinds: set[str], agents: int):
    asked = kinds_of(policy)
    assert len(asked) == 4
    assert {kind for kind, _ in asked} == kinds
    assert len({agent for _, agent in asked}) == agents


def test_rows():
    answers = [Answer(ttft, 1000, 992) for ttft in (0.1, 0.2, 0.3)]
    [found] = rows_of({(1024, "warm", "stock"): answers})
    assert found["case"] == "1024 warm"
    assert (found["ttft_ms"], found["ttft_ms_p90"]) == (200, 280)
    assert (found["prompt_tokens"], found["cached_tokens"], found["repeats"]) == (1000, 992, 3)

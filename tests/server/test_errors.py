"""What a server refuses: the right status, OpenAI's form, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.server.serving import KEY, Served, options_of, refused, serving

CHAT = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
TOOL = {"type": "function", "function": {"name": "look"}}
BAD_CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": "[]"}}],
}
TEXT = {"model": "base", "prompt": "Hi", "max_tokens": 2}


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with served.http() as made:
        yield made
    served.idle()


def post(http: httpx.Client, path: str, body: Any) -> httpx.Response:
    """As httpx does it, but with text that is no UTF-8, too."""
    content, kind = json.dumps(body), {"Content-Type": "application/json"}
    return http.post(f"/v1/{path}", content=content, headers=kind)


@pytest.mark.parametrize(
    ("path", "changes", "param", "says"),
    [
        ("chat/completions", {"messages": []}, "messages", "at least 1 item"),
        ("chat/completions", {"messages": "Hi"}, "messages", "valid list"),
        ("chat/completions", {"messages": [{"content": "Hi"}]}, "messages", "role"),
        ("chat/completions", {"temperature": -1}, "temperature", "greater than or equal to 0"),
        ("chat/completions", {"temperature": "hot"}, "temperature", "valid number"),
        ("chat/completions", {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ("chat/completions", {"tools": [{"type": "function"}]}, "tools", "function: Field"),
        ("chat/completions", {"tools": [TOOL]}, None, "no place for tools"),
        ("chat/completions", {"tool_choice": "required"}, "tool_choice", "'none' or 'auto'"),
        ("chat/completions", {"parallel_tool_calls": False}, None, "not supported"),
        ("chat/completions", {"messages": [BAD_CALL]}, None, "no JSON object"),
        (
            "chat/completions",
            {"response_format": {"type": "xml"}},
            "response_format",
            "json_object",
        ),
        (
            "chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format",
            "name: Field required",
        ),
        (
            "completions",
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            None,
            "not both",
        ),
        ("completions", {"structured_outputs": {"json": {"type": 5}}}, None, "cannot be followed"),
        (
            "completions",
            {"structured_outputs": {"regex": "a", "choice": ["b"]}},
            "structured_outputs",
            "give one of",
        ),
        ("chat/completions", {"typo": 1}, "typo", "Extra inputs"),
        ("chat/completions", {"stream": False, "stream_options": {}}, None, "stream: true"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "b": 1}]}]},
            "messages",
            "no field 'b'",
        ),
        ("chat/completions", {"cache_salt": "\ud800"}, None, "Unicode"),
        ("chat/completions", {"n": 1000}, "n", "less than or equal to 128"),
        ("completions", {"deadline": 0}, "deadline", "greater than 0"),
        ("completions", {"prompt": []}, "prompt", "at least 1 item"),
        ("completions", {"prompt": [[]]}, None, "empty"),
        ("completions", {"prompt": [9999]}, None, "between 0 and 258"),
        ("completions", {"prompt": ["a"] * 129}, None, "more than this server's 128 answers"),
        ("completions", {"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ("completions", {"best_of": 2}, None, "best_of is not supported"),
        ("completions", {"max_tokens": 0}, None, "needs echo: true"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_bad_fields(
    http: httpx.Client, path: str, changes: dict[str, Any], param: str | None, says: str,
    stream: bool,
):  # fmt: skip
    body = {**(CHAT if path.startswith("chat") else TEXT), "stream": stream, **changes}
    error = refused(post(http, path, body), 400)
    assert says in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("field", ["typo", "include_obfuscation", "continuous_usage_stats"])
def test_bad_options_of_a_stream(http: httpx.Client, field: str):
    body = TEXT | {"stream": True, "stream_options": {field: True}}
    assert refused(post(http, "completions", body), 400)["param"] == "stream_options"


def test_neutral_values_of_what_is_not_supported_are_taken(http: httpx.Client):
    part = {"type": "text", "text": "Hi", "typo": None}
    more = {
        "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "user": "me",
        "messages": [{"role": "user", "content": [part], "typo": None}],
    }  # fmt: skip
    assert http.post("/v1/chat/completions", json=CHAT | more).status_code == 200
    more = {"best_of": 1, "echo": False, "stream": True, "typo": None}
    options = {"include_usage": None, "include_obfuscation": False}
    answer = http.post("/v1/completions", json=TEXT | more | {"stream_options": options})
    assert answer.status_code == 200


def test_messages_that_the_chat_template_refuses(
    served: Served, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
):
    template = "{{ raise_exception('roles must alternate') }}"
    monkeypatch.setattr(served.engine.tokenizer, "chat_template", template)
    error = refused(http.post("/v1/chat/completions", json=CHAT), 400)
    assert (
        error["message"] == "the model's chat template refuses the messages: roles must alternate"
    )


def test_unknown_models(http: httpx.Client):
    error = refused(http.post("/v1/chat/completions", json=CHAT | {"model": "plam"}), 404)
    assert "did you mean 'plan'?" in error["message"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    refused(http.get("/v1/models/plam"), 404)
    refused(post(http, "completions", TEXT | {"model": "\ud800"}), 404)


def test_a_prompt_beyond_the_context(http: httpx.Client, client: openai.OpenAI):
    error = refused(http.post("/v1/completions", json=TEXT | {"prompt": "x" * 3000}), 400)
    assert error["code"] == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="shorten the prompt"):
        client.completions.create(model="base", prompt="x" * 2048)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"prompt": NaN}']
)
def test_bodies_that_are_no_request(http: httpx.Client, content: bytes):
    headers = {"Content-Type": "application/json"}
    refused(http.post("/v1/completions", content=content, headers=headers), 400)


def test_other_paths_and_methods(http: httpx.Client):
    refused(http.get("/v1/nothing"), 404)
    refused(http.get("/v1/completions"), 405)


def test_the_key(served: Served):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
        with httpx.Client(base_url=served.url, headers=headers) as stranger:
            for path in ("/v1/models", "/v1/lragent/stats", "/v1/lragent/events", "/v1/nothing"):
                refused(stranger.get(path), 401)
            for path in ("/health", "/metrics", "/lragent/"):
                assert stranger.get(path).status_code == 200
    with pytest.raises(openai.AuthenticationError):
        served.client(api_key="wrong").models.list()


def test_long_bodies():
    with serving({}, options_of(max_body_bytes=1000)) as small, small.http() as http:
        long = TEXT | {"prompt": "x" * 1000}
        refused(http.post("/v1/completions", json=long), 413)

        def parts() -> Iterator[bytes]:  # without a length
            for _ in range(20):
                yield b" " * 100

        answer = http.post(
            "/v1/completions", content=parts(), headers={"Content-Type": "application/json"}
        )
        refused(answer, 413)
        assert http.post("/v1/completions", json=TEXT).status_code == 200


def test_a_full_queue():
    with serving({}, max_num_seqs=1, max_waiting=0) as full, full.http() as http:
        wanted = TEXT | {"max_tokens": 1500, "stream": True, "ignore_eos": True}
        with http.stream("POST", "/v1/completions", json=wanted) as running:
            parts = running.iter_bytes()
            next(parts)
            answer = http.post("/v1/completions", json=TEXT)
            assert refused(answer, 429)["code"] == "queue_full"
            assert answer.headers["Retry-After"] == "1"
        full.idle()
        assert http.post("/v1/completions", json=TEXT).status_code == 200


def test_a_failed_step(served: Served, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("no more memory")

    with served.http() as http:
        with monkeypatch.context() as patched:
            patched.setattr(served.engine._runner, "run", fail)
            refused(http.post("/v1/completions", json=TEXT), 500)
            answer = http.post("/v1/completions", json=TEXT | {"stream": True})
            assert answer.status_code == 200, "it had begun"
            assert '"type": "server_error"' in answer.text
            assert "[DONE]" not in answer.text
        assert http.post("/v1/completions", json=TEXT).status_code == 200
    served.idle()


def test_the_schema_describes_errors(served: Served, http: httpx.Client):
    schema = http.get("/openapi.json").json()
    for path in schema["paths"].values():
        for operation in path.values():
            assert operation["responses"].keys() == {"200", "default"}  # FastAPI's 422 never comes
            [content] = operation["responses"]["default"]["content"].values()
            assert content["schema"]["$ref"].endswith("/ErrorBody")
    described = schema["components"]["schemas"]["ErrorDetail"]["properties"]
    assert described.keys() == refused(http.get("/v1/nothing"), 404).keys()

"""A server of this process on a tiny model, on a port of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import torch
import uvicorn
from tests.engine.tokenizer import byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from lragent.engine import Engine
from lragent.server import ServerOptions, create_app
from lragent.server.run import Server

KEY = "secret"


def byte_llama() -> LlamaForCausalLM:
    """A random model that answers in bytes and rarely ends by itself."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    model.name_or_path = model.config._name_or_path = "tiny/bytes"
    return model


@dataclass
class Served:
    """A running server and what is inside."""

    url: str
    engine: Engine
    server: Server

    def client(self, **options: Any) -> openai.OpenAI:
        """A client of OpenAI's, which does not try again."""
        given = {"api_key": KEY, "max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **given)

    def http(self) -> httpx.Client:
        """A client that does nothing by itself."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
        )

    def idle(self) -> None:
        """Wait until nothing runs, and see that no page is lost."""
        deadline = time.monotonic() + 20
        while (stats := self.engine.stats()).running or stats.waiting or stats.pages["leased"]:
            assert time.monotonic() < deadline, stats
            time.sleep(0.02)
        self.engine.check_integrity()


@contextmanager
def over_http(engine: Engine, options: ServerOptions) -> Iterator[Served]:
    """Serve an engine from a thread."""
    app = create_app(engine, options)
    up, where = threading.Event(), []
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="warning", lifespan="off",
        timeout_graceful_shutdown=20,
    )  # fmt: skip
    server = Server(config, app.state.lragent, lambda url: (where.append(url), up.set()))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert up.wait(20)
    try:
        yield Served(where[0], engine, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def serving(
    adapters: Mapping[str, Path], options: ServerOptions | None = None, **engine: Any
) -> Iterator[Served]:
    """Serve a tiny model with `adapters`; `engine` are arguments of the engine."""
    given = {"sharing": "base+lr", "kv_bytes": 8 << 20, "debug": True, **engine}
    model = (byte_llama(), byte_tokenizer())
    with (
        Engine(model, adapters, background=True, **given) as made,
        over_http(made, options or options_of()) as served,
    ):
        yield served


def options_of(**changes: Any) -> ServerOptions:
    """Options for tests: a key, and adapters may change."""
    given = {"base_model": "base", "api_key": KEY, "runtime_adapters": True, **changes}
    return ServerOptions(**given)


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer with this status, if it has OpenAI's form and nothing else."""
    assert answer.status_code == status, answer.text
    return error_of(answer.json())


def error_of(body: Any) -> dict[str, Any]:
    """The error, if `body` has OpenAI's form of it and nothing else."""
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]

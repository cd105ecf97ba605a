"""vLLM's HTTP server in a process of its own, and a client that takes the time of first tokens."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.sources import HERE


class Answer(NamedTuple):
    """A streamed answer.

    Attributes:
        ttft_s: from sending the request to the first chunk of the answer, in seconds.
        prompt_tokens: tokens of the prompt, as the server counts them.
        cached_tokens: of these, how many it did not compute.
    """

    ttft_s: float
    prompt_tokens: int
    cached_tokens: int


class ServerError(RuntimeError):
    """The server ended, did not start in time, or refused a request."""


class Server:
    """A server that starts in the background; a context manager.

    Args:
        name: for messages.
        plugin: whether vLLM loads lragent.
        options: of the command line, after ``--model``.
        folder: for its log and for what it imports.
    """

    def __init__(self, name: str, plugin: bool, options: Sequence[str], folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self._name, self._log = name, folder / "log"
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        folder.mkdir(parents=True, exist_ok=True)
        # The command `vllm` looks for a package of that name; the build for CPUs has another.
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1",
            "--port", str(self._port), *options,
        ]  # fmt: skip
        environment = HERE.environment(plugin, folder) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def wait(self, deadline: float) -> None:
        """Until it answers, or ``time.monotonic()`` is ``deadline``.

        Raises:
            ServerError: it ended, or the time was over.
        """
        while True:
            try:
                self._connection.request("GET", "/health")
                self._connection.getresponse().read()
                return
            except OSError:
                self._connection.close()
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-3000:]
                raise ServerError(f"the server of {self._name} does not answer:\n{tail}")
            time.sleep(1)

    def chat(self, model: str, messages: Sequence[Mapping[str, str]], tokens: int) -> Answer:
        """Ask for ``tokens`` tokens, greedily.

        Raises:
            ServerError: it refuses the request.
        """
        self._connection.close()  # the server has done so, some seconds after the last request
        self._connection.connect()
        try:
            return ask(self._connection, model, messages, tokens)
        except ServerError as error:
            raise ServerError(f"{self._name}: {error}") from error


def ask(
    connection: http.client.HTTPConnection,
    model: str,
    messages: Sequence[Mapping[str, str]],
    tokens: int,
) -> Answer:
    """As `Server.chat`, over an open connection."""
    body = json.dumps({
        "model": model, "messages": messages, "max_tokens": tokens, "temperature": 0,
        "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
    })  # fmt: skip
    begin = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    if response.status != 200:
        raise ServerError(f"{response.status} {response.read().decode()}")
    first, usage = None, {}
    for line in response:
        data = line.removeprefix(b"data: ").strip()
        if not line.startswith(b"data: ") or data == b"[DONE]":
            continue
        if first is None:
            first = time.perf_counter() - begin
        usage = json.loads(data).get("usage") or usage
    if first is None or not usage:
        raise ServerError("the answer is empty")
    details = usage.get("prompt_tokens_details") or {}
    return Answer(first, usage["prompt_tokens"], details.get("cached_tokens") or 0)

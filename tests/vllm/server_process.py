"""vLLM's OpenAI-compatible server in a process of its own: what users run."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vllm.serving import PAGE, search_path


@dataclass(frozen=True)
class ServerProcess:
    """A server that is ready. `url` is without ``/v1``."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def serve(
    model: Path, adapters: dict[str, Path], log: Path, *options: str, plugins: str = "lragent"
) -> Iterator[ServerProcess]:
    """The model as ``base``, with the adapters by their names; ends with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        # The command `vllm` looks for a package of that name, and the build for CPUs has another.
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", "base", "--port", str(port), "--enable-lora",
        "--max-lora-rank", "8", "--max-loras", "4", "--dtype", "float32", "--enforce-eager",
        "--block-size", str(PAGE), "--max-num-seqs", "8",
        "--kv-cache-memory-bytes", str(16 << 20), "--enable-prompt-tokens-details",
        *options, "--lora-modules", *(f"{name}={path}" for name, path in adapters.items()),
    ]  # fmt: skip
    env = {
        **os.environ,
        "PYTHONPATH": search_path(),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_PLUGINS": plugins,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            deadline = time.monotonic() + 240
            while True:
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(url + "/health", timeout=5)
                    break
                time.sleep(1)
            yield ServerProcess(url, process)
            assert process.poll() is None, log.read_text()[-4000:]
        finally:
            process.terminate()
            process.wait(60)

"""Measure what a client of vLLM's server sees: chat messages over HTTP, streamed.

    python -m benchmarks.serving.chat --out benchmarks/results/chat-h200.json
    python -m benchmarks.serving.chat --tiny --out /tmp/chat.json

TTFT of a document that one agent has read and another one is handed, the real path: JSON, chat
template, tokenizer, hashing. All servers start side by side and take turns request by request.
Each repeat has a document of its own: `plan` reads it (cold), reads it again (warm), then `act` and
`reflect` do (hand-over). A name that ends in ``-one`` sends all four to `plan`, so that the last
two are warm too. `policies.py` says what the names mean.

The model has the shape of Llama-3.1-8B and random weights, the tokenizer is SmolLM2's. That comes
from the package index; on a machine without network name a folder with one by --tokenizer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import machine, shapes
from benchmarks.common.adapters import AGENTS, write_adapters
from benchmarks.common.dummy_weights import LOAD_FORMAT
from benchmarks.common.files import save
from benchmarks.common.sources import HERE
from benchmarks.serving.engine import TARGET_MODULES
from benchmarks.serving.policies import (
    NAMES,
    TARGETS,
    engines_of,
    is_stock,
    kind_of,
    plugin_option,
    uses_one_adapter,
)
from benchmarks.serving.rows import quantile, row
from benchmarks.serving.run import CAPTURED, PAGE, identity
from benchmarks.serving.server import Answer, Server

POLICIES = ("stock", "stock-one", "base+lr", "neutral")
REPEATS = {1024: 20, 8192: 12, 32768: 8, 131072: 2}
RANK = 16
NEW = 8
"""Tokens of each answer."""

Json = dict[str, Any]
Times = dict[tuple[int, str, str], list[Answer]]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--policies", nargs="+", choices=NAMES, default=POLICIES)
    add("--contexts", nargs="+", type=int, help="prompt tokens and answer; default: 1k to 128k")
    add("--repeats", type=int, help="of every context; default: 20 of 1k to 2 of 128k")
    add("--tokenizer", type=Path, help="folder of a tokenizer with a chat template")
    add("--tiny", action="store_true", help="a tiny model and short contexts, on a CPU too")
    add("--kv-gib", type=float, default=20.0, help="KV cache of each server")
    add("--limit", type=float, default=460.0, help="seconds after which no repeat begins")
    add("--commit", help="written into the result; default: the checkout's")
    add("--out", type=Path, required=True)
    found = parser.parse_args()
    found.contexts = found.contexts or ([256, 1024] if found.tiny else list(REPEATS))
    return found


def tokenizer_of(folder: Path | None) -> Any:
    """The tokenizer of a folder; SmolLM2's without one."""
    from transformers import AutoTokenizer

    if folder is None:
        from lragent import smollm2

        folder = smollm2.convert()
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


class Documents:
    """Messages of a wanted length, each with other words."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        words = (re.fullmatch("Ġ([a-z]{3,})", token) for token in sorted(tokenizer.get_vocab()))
        self._words = [word[1] for word in words if word]
        self._around = len(self._ids(self._messages([])))

    def messages(self, tokens: int, seed: str) -> list[dict[str, str]]:
        """A chat whose prompt has some ``tokens`` tokens."""
        words = random.Random(seed).choices(self._words, k=tokens - self._around)
        return self._messages(words)

    def _messages(self, words: Sequence[str]) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": "You answer from the document."},
            {"role": "user", "content": f"Document: {' '.join(words)}"},
        ]

    def _ids(self, messages: Any) -> Any:
        text = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return self._tokenizer(text)["input_ids"]


def options_of(
    engine: str, options: argparse.Namespace, model: Path, adapters: Mapping[str, Path]
) -> list[str]:
    """The server's command line."""
    longest = str(max(options.contexts))
    found = [
        "--model", str(model), "--served-model-name", "base", "--load-format", LOAD_FORMAT,
        "--enable-lora", "--max-loras", str(len(AGENTS)), "--max-lora-rank", str(RANK),
        "--max-model-len", longest, "--enable-prompt-tokens-details", "--generation-config", "vllm",
    ]  # fmt: skip
    if options.tiny:
        found += ["--block-size", str(PAGE), "--kv-cache-memory-bytes", str(256 << 20)]
        found += ["--enforce-eager", "--max-num-seqs", "8"]
        found += ["--dtype", "float32" if not on_gpu() else "bfloat16"]
    else:
        found += ["--dtype", "bfloat16", "--max-num-seqs", "16", "--max-num-batched-tokens", "8192"]
        found += ["--kv-cache-memory-bytes", str(int(options.kv_gib * 2**30))]
        # vLLM wants this much to be free at the start; the line above is what it takes.
        share = 0.7 / len(engines_of(options.policies))
        found += ["--gpu-memory-utilization", f"{share:.3f}"]
        sizes = [size for size in CAPTURED if size <= 16]
        found += ["--compilation-config", json.dumps({"cudagraph_capture_sizes": sizes})]
    if kind_of(engine) == TARGETS:
        found += ["--lora-target-modules", *TARGET_MODULES]
    option = plugin_option(engine, {name: str(path) for name, path in adapters.items()})
    if option is not None:
        found += ["--additional-config", json.dumps({"lragent": option})]
    return [*found, "--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]


def on_gpu() -> bool:
    """Whether this machine has one."""
    return machine.hardware()["driver"] is not None


def kinds_of(policy: str) -> list[tuple[str, str]]:
    """What is measured of a document, in order: kind and agent."""
    plan, act, reflect = AGENTS
    if uses_one_adapter(policy):
        return [("cold", plan), ("warm", plan), ("warm", plan), ("warm", plan)]
    return [("cold", plan), ("warm", plan), ("hand-over", act), ("hand-over", reflect)]


def measure(
    servers: Mapping[str, Server], documents: Documents, options: argparse.Namespace, end: float
) -> Times:
    """Answers by context, kind and policy, until ``time.monotonic()`` is ``end``."""
    found: Times = defaultdict(list)
    for policy, server in servers.items():  # nothing is compiled or loaded in what is measured
        for tokens in {min(options.contexts), min(4096, max(options.contexts))}:
            for _, agent in kinds_of(policy):
                server.chat(agent, documents.messages(tokens - NEW - 8, f"warm-up {agent}"), NEW)
    for context in options.contexts:
        for repeat in range(options.repeats or REPEATS.get(context, 8)):
            begin = time.monotonic()
            asked = {
                policy: documents.messages(context - NEW - 8, f"{context} {repeat} {policy}")
                for policy in servers
            }
            for turn in range(4):
                for policy, server in servers.items():
                    kind, agent = kinds_of(policy)[turn]
                    found[context, kind, policy].append(server.chat(agent, asked[policy], NEW))
            now = time.monotonic()
            if 2 * now - begin > end:
                break
    return found


def rows_of(times: Times) -> list[Json]:
    """Rows of the result file."""
    return [
        row(
            "chat", f"{context} {kind}", policy,
            ttft_s=[answer.ttft_s for answer in answers],
            ttft_ms_p90=round(1000 * quantile([a.ttft_s for a in answers], 0.9), 3),
            prompt_tokens=int(statistics.median(a.prompt_tokens for a in answers)),
            cached_tokens=int(statistics.median(a.cached_tokens for a in answers)),
        )
        for (context, kind, policy), answers in times.items()
    ]  # fmt: skip


def main() -> None:
    """Start all servers, measure in turns, write the file and print a table."""
    begin = time.monotonic()
    options = arguments()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = tokenizer_of(options.tokenizer)
    shape = shapes.TINY if options.tiny else shapes.LLAMA_8B
    if shape.vocab < len(tokenizer):
        shape = replace(shape, vocab=len(tokenizer))
    options.other_commit = None
    result = identity(options, [HERE], f"{shape.name}, random weights") | {"rows": []}
    with (
        tempfile.TemporaryDirectory(prefix="lragent-chat-") as name,
        contextlib.ExitStack() as all_,
    ):
        folder = Path(name)
        model = shapes.write_config(folder / "model", shape)
        tokenizer.save_pretrained(model)
        adapters = write_adapters(folder / "adapters", shape, RANK)
        servers: dict[str, Server] = {}
        for place, (engine, policies) in enumerate(engines_of(options.policies).items()):
            command = options_of(engine, options, model, adapters)
            server = Server(engine, not is_stock(engine), command, folder / str(place))
            all_.enter_context(server)
            servers.update(dict.fromkeys(policies, server))
        for server in servers.values():
            server.wait(begin + options.limit)
        print(f"{len(servers)} servers after {time.monotonic() - begin:.0f} s", file=sys.stderr)
        times = measure(servers, Documents(tokenizer), options, begin + options.limit)
        result["rows"] = rows_of(times)
        save(options.out, result)
    print("| context, request | policy | TTFT p50 | p90 | cached | times |")
    print("| --- | --- | --- | --- | --- | --- |")
    for r in result["rows"]:
        cached = f"{r['cached_tokens']} of {r['prompt_tokens']}"
        print(f"| {r['case']} | {r['policy']} | {r['ttft_ms']} ms | {r['ttft_ms_p90']} ms "
              f"| {cached} | {r['repeats']} |")  # fmt: skip


if __name__ == "__main__":
    main()

"""Measure the embedded engine on a GPU and write benchmarks/results/engine-<gpu>.json.

    python -m benchmarks.engine --commit "$(git rev-parse HEAD)"

Two parts, with SmolLM2-135M-Instruct and the bundled adapters:

- agreement: a context passes through the three agents under every policy, in fp32 on the CPU and
  in bf16 on the GPU. After each of the CPU's greedy tokens the GPU is asked for the next one; the
  share of equal choices is reported, with that of transformers in bf16 under `isolated` beside it,
  since rounding alone changes some.
- decode: tokens a second at 2,048 tokens of context, batch 1 and 8, against `generate` of
  transformers (SDPA) with the same adapter and dtype in the same run; medians of the time between
  tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks.common.files import file_name
from peft import PeftModel
from transformers import StoppingCriteriaList

from lragent import Engine, SamplingParams
from lragent.agents import demo
from lragent.engine.loader import load_model

ROOT = Path(__file__).parent.parent
POLICIES = ("isolated", "full", "base", "base+lr")
AGENTS = ("plan", "act", "reflect")
CONTEXT = 2048
TURN = 24


def document_ids(tokenizer: Any) -> list[int]:
    """Token ids of the demo documents."""
    return tokenizer(demo.demo_text())["input_ids"]


def cpu_chain(model: str, adapters: dict[str, Path], policy: str) -> list[tuple[str, list[int]]]:
    """Each agent continues the context of the one before; returns its prompt and its tokens."""
    params = SamplingParams(max_tokens=TURN, ignore_eos=True)
    chain = []
    with Engine(model, adapters, policy, device="cpu", dtype=torch.float32) as engine:
        context = document_ids(engine.tokenizer)[: CONTEXT // 2]
        for name in AGENTS:
            done = engine.generate(context, adapter=name, sampling_params=params)
            chain.append((name, [*context, *done.token_ids]))
            context = [*context, *done.token_ids]
    return chain


def gpu_agreement(
    model: str, adapters: dict[str, Path], policy: str, chain: list[tuple[str, list[int]]]
) -> float:
    """Share of the CPU's tokens that the GPU chooses too, given the CPU's tokens before."""
    params = SamplingParams(max_tokens=1, ignore_eos=True)
    equal = []
    with Engine(model, adapters, policy, device="cuda", dtype=torch.bfloat16) as engine:
        for name, tokens in chain:
            for end in range(len(tokens) - TURN, len(tokens)):
                done = engine.generate(tokens[:end], adapter=name, sampling_params=params)
                equal.append(done.token_ids[0] == tokens[end])
    return statistics.mean(equal)


@torch.inference_mode()
def transformers_agreement(
    model: str, adapters: dict[str, Path], chain: list[tuple[str, list[int]]]
) -> float:
    """The same share for transformers and PEFT in bf16, where rounding is all that differs."""
    equal = []
    for name, tokens in chain:
        base, _ = load_model(model, dtype=torch.bfloat16, device="cuda")
        peft = PeftModel.from_pretrained(base, str(adapters[name])).eval()
        ids = torch.tensor([tokens], device="cuda")
        picks = peft(ids).logits[0, -TURN - 1 : -1].argmax(-1).tolist()
        equal += [a == b for a, b in zip(picks, tokens[-TURN:], strict=True)]
    return statistics.mean(equal)


def gap(times: Sequence[float], skip: int = 8) -> float:
    """Median seconds between tokens, without the first few."""
    late = times[skip:]
    return statistics.median(b - a for a, b in itertools.pairwise(late))


@torch.inference_mode()
def theirs(peft: Any, prompt: list[int], batch: int, tokens: int) -> float:
    """Seconds a step of `generate`."""
    ids = torch.tensor([prompt] * batch, device="cuda")
    times: list[float] = []

    def note(*_: object, **__: object) -> torch.Tensor:
        torch.cuda.synchronize()
        times.append(time.perf_counter())
        return torch.zeros(batch, dtype=torch.bool, device="cuda")

    peft.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([note]),
    )
    return gap(times)


def ours(engine: Engine, prompt: list[int], batch: int, tokens: int, salt: str) -> float:
    """Seconds a step of the engine; every request has pages of its own."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    requests = [
        engine.submit(prompt, adapter="plan", sampling_params=params, cache_salt=f"{salt}-{i}")
        for i in range(batch)
    ]
    while any(not request.token_ids for request in requests):
        engine.step()
    times = []
    while not any(request.done for request in requests):
        engine.step()
        times.append(time.perf_counter())
    for request in requests:
        request.result()
    return gap(times)


def decode(model: str, adapters: dict[str, Path], tokens: int, repeats: int) -> list[dict]:
    """Tokens a second of both, in turns."""
    base, _ = load_model(model, dtype=torch.bfloat16, device="cuda")
    base.set_attn_implementation("sdpa")
    assert base.generation_config is not None
    base.generation_config.eos_token_id = None
    peft = PeftModel.from_pretrained(base, str(adapters["plan"])).eval()
    cases = []
    with Engine(model, adapters, "base+lr", kv_bytes=8 << 30) as engine:
        prompt = document_ids(engine.tokenizer)[:CONTEXT]
        for batch in (1, 8):
            pairs = []
            for turn in range(repeats + 1):  # the first one warms up and captures
                pair = (
                    ours(engine, prompt, batch, tokens, f"{batch}-{turn}"),
                    theirs(peft, prompt, batch, tokens),
                )
                pairs += [pair] if turn else []
            mine, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
            cases.append(
                {
                    "batch": batch,
                    "context": CONTEXT,
                    "ours_tokens_per_s": batch / mine,
                    "peer": "transformers generate, SDPA",
                    "peer_tokens_per_s": batch / peer,
                    "ratio": statistics.median(b / a for a, b in pairs),
                }
            )
    return cases


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--commit", required=True)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    adapters = demo.demo_adapters()
    agreement = {}
    for policy in POLICIES:
        chain = cpu_chain(options.model, adapters, policy)
        agreement[policy] = gpu_agreement(options.model, adapters, policy, chain)
        if policy == "isolated":
            agreement["transformers, isolated"] = transformers_agreement(
                options.model, adapters, chain
            )
        print(agreement, flush=True)
    cases = decode(options.model, adapters, options.tokens, options.repeats)
    gpu = torch.cuda.get_device_name()
    result = {
        "gpu": gpu,
        "cpu_threads": torch.get_num_threads(),
        "commit": options.commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "model": "SmolLM2-135M-Instruct, bf16, bundled adapters",
        "greedy_agreement_with_fp32_cpu": agreement,
        "decode": cases,
    }
    print(json.dumps(result, indent=2))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / file_name(gpu, "engine")).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

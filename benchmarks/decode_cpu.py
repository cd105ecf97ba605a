"""Time decoding on a CPU against `generate` of transformers and PEFT, and print JSON.

    python benchmarks/decode_cpu.py

SmolLM2-135M-Instruct, fp32, the bundled plan adapter, 2,048 tokens of context, in turns in one
process: median seconds between tokens. The aim is a ratio of at least 1.
"""

from __future__ import annotations

import json
import statistics
import time
from itertools import pairwise

import torch
from peft import PeftModel
from transformers import StoppingCriteriaList

from lragent import Engine, SamplingParams
from lragent.agents.demo import demo_adapters, demo_store
from lragent.engine.loader import load_model

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONTEXT, TOKENS, SKIP, REPEATS = 2048, 36, 4, 3


def gap(times: list[float]) -> float:
    """Median seconds between tokens, without the first few."""
    return statistics.median(b - a for a, b in pairwise(times[SKIP:]))


@torch.inference_mode()
def theirs(model: PeftModel, prompt: list[int]) -> float:
    """Seconds a token of `generate`."""
    ids = torch.tensor([prompt])
    times: list[float] = []

    def note(*_: object, **__: object) -> torch.Tensor:
        times.append(time.perf_counter())
        return torch.zeros(1, dtype=torch.bool)

    model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=TOKENS,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([note]),
        pad_token_id=0,
    )
    return gap(times)


def ours(engine: Engine, prompt: list[int]) -> float:
    """Seconds a token of the engine."""
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    times: list[float] = []
    for _ in engine.generate(prompt, adapter="plan", params=params, stream=True):
        times.append(time.perf_counter())
    return gap(times[:-1])


def main() -> None:
    """Measure both in turns and print the ratio."""
    base, tokenizer = load_model(MODEL)
    assert base.generation_config is not None
    base.generation_config.eos_token_id = None
    model = PeftModel.from_pretrained(base, str(demo_adapters()["plan"])).eval()
    text = "\n".join(document.text for document in demo_store().documents)
    prompt = (tokenizer(text)["input_ids"] * 2)[:CONTEXT]
    with Engine(MODEL, demo_adapters()) as engine:
        ours(engine, prompt)
        pairs = [(theirs(model, prompt), ours(engine, prompt)) for _ in range(REPEATS)]
    print(
        json.dumps(
            {
                "generate_s_per_token": [a for a, _ in pairs],
                "engine_s_per_token": [b for _, b in pairs],
                "ratio": statistics.median(a / b for a, b in pairs),
            }
        )
    )


if __name__ == "__main__":
    main()

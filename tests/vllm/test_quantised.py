"""Quantised weights: under each policy as close to PyTorch as without sharing.

Their kernels know 16 bits alone, so probabilities of answers are compared.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.vllm.families import CONTEXT, FULL, Ahead, alone, handed_over, serve
from tests.vllm.quantised import KINDS, make_quantised
from tests.vllm.serving import Served

POLICIES = ("neutral", "full", "base+lr")


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_weights(kind: str, tmp_path: Path):
    model = make_quantised(tmp_path / "model", kind)
    with serve(tmp_path, model, POLICIES, dtype="bfloat16") as family:
        rounding = distance(alone(family, "act"), *ask(family.served, "act"))
        for policy in POLICIES:
            ask(family.served, f"plan{policy}")
            found = ask(family.served, f"act{policy}", cached=FULL)
            assert distance(handed_over(family, policy), *found) < 2 * rounding, policy
            assert distance(alone(family, "act"), *found) > 10 * rounding, "policies differ"


def ask(served: Served, name: str, cached: int = 0) -> tuple[Sequence[int], list[float]]:
    """Tokens of an answer to the context, and their logprobs."""
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0, max_tokens=32, ignore_eos=True, detokenize=False, logprobs=0
    )
    lora = served.lora(name)
    with torch.compiler.set_stance("force_eager"):  # vLLM would compile a function for logprobs
        [found] = served.llm.generate({"prompt_token_ids": CONTEXT}, params, lora_request=lora)
    assert found.num_cached_tokens == cached
    tokens, rows = found.outputs[0].token_ids, found.outputs[0].logprobs
    return tokens, [row[token].logprob for token, row in zip(tokens, rows, strict=True)]


def distance(reference: Ahead, tokens: Sequence[int], logprobs: list[float]) -> float:
    """Root of the mean square of the differences of logprobs."""
    pairs = zip(reference.logprobs(tokens), logprobs, strict=True)
    return math.sqrt(sum((a - b) ** 2 for a, b in pairs) / len(logprobs))

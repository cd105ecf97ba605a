"""SmolLM2 and the bundled adapters: `isolated` is transformers and PEFT, token for token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lragent.engine import Completion, Engine, SamplingParams

LENGTHS = (50, 400, 900)
NEW = 24
NAMES = ("plan", "act", "reflect", None)


@torch.inference_mode()
def forced_logprobs(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """`[NEW, vocab]` of each step, from one pass over prompt and answer."""
    logits = model(torch.tensor([[*prompt, *tokens[:-1]]]), logits_to_keep=len(tokens)).logits
    return logits[0].log_softmax(-1)


@pytest.fixture(scope="module")
def ours(
    adapters: dict[str, Path], text_ids: Callable[[int], list[int]]
) -> dict[tuple[str | None, int], Completion]:
    params = SamplingParams(max_tokens=NEW, logprobs=0, ignore_eos=True)
    with Engine("smollm2", adapters) as engine:
        requests = {
            (name, length): engine.submit(text_ids(length), adapter=name, sampling_params=params)
            for name in NAMES
            for length in LENGTHS
        }
        return {key: request.result() for key, request in requests.items()}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name or "base-model")
def test_greedy_tokens_and_logprobs_equal_generate(
    name: str | None,
    ours: dict[tuple[str | None, int], Completion],
    adapters: dict[str, Path],
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    text_ids: Callable[[int], list[int]],
):
    model = loaded[0]
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None
    peft = None if name is None else PeftModel.from_pretrained(model, str(adapters[name])).eval()
    used = model if peft is None else peft
    try:
        for length in LENGTHS:
            prompt = text_ids(length)
            ids = torch.tensor([prompt])
            with torch.inference_mode():
                out = used.generate(  # pyright: ignore[reportCallIssue]
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=NEW,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                    pad_token_id=0,
                )
            tokens = out.sequences[0, length:].tolist()
            got = ours[name, length]
            assert list(got.token_ids) == tokens, (name, length)
            theirs = torch.stack([row[0].log_softmax(-1) for row in out.logits])
            chosen = torch.tensor([entry.logprob for entry in got.logprobs])
            picked = theirs.gather(1, torch.tensor(tokens)[:, None])[:, 0]
            # how far two ways of computing the same numbers in transformers itself lie apart
            forced = forced_logprobs(used, prompt, tokens)  # pyright: ignore[reportArgumentType]
            floor = (theirs - forced).abs().max().item()
            assert (chosen - picked).abs().max().item() <= 2 * floor + 1e-6
    finally:
        if peft is not None:
            peft.unload()

"""Tiny random models of every supported family, and reference generations of transformers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)

SIZES = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
EXTRA = {
    "llama": {},
    "mistral": {"sliding_window": 40},
    "qwen2": {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1},
    "qwen3": {},
}
FAMILIES = tuple(EXTRA)


def tiny_model(family: str = "llama", seed: int = 0, windows: bool = True) -> PreTrainedModel:
    """A random model whose next tokens depend on the whole context; it reports the name
    `tiny/<family>`. Without `windows` all of its layers see all tokens.
    """
    torch.manual_seed(seed)
    extra = EXTRA[family] if windows else {"sliding_window": None}
    config = AutoConfig.for_model(family, **SIZES, **extra)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    model.config._name_or_path = f"tiny/{family}"
    model.name_or_path = f"tiny/{family}"
    return model


@dataclass(frozen=True)
class Generated:
    """What `generate` chose, and the log-probability of each choice."""

    tokens: list[int]
    logprobs: list[float]


@torch.inference_mode()
def generate(
    model: PreTrainedModel, prompt: Sequence[int], new_tokens: int, adapter: Path | None = None
) -> Generated:
    """Greedy tokens of transformers (and PEFT), from an untouched copy of `model`."""
    own = copy.deepcopy(model)
    assert own.generation_config is not None
    own.generation_config.eos_token_id = None
    used = own if adapter is None else PeftModel.from_pretrained(own, str(adapter)).eval()
    ids = torch.tensor([list(prompt)])
    out: Any = used.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    tokens = out.sequences[0, len(prompt) :].tolist()
    rows = [row[0].float().log_softmax(-1) for row in out.logits]
    return Generated(tokens, [row[t].item() for row, t in zip(rows, tokens, strict=True)])


def prompt_of(length: int, seed: int = 0, vocab: int = SIZES["vocab_size"]) -> list[int]:
    """Random token ids without the special ones."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(3, vocab, (length,), generator=generator).tolist()

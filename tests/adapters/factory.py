"""Tiny models and adapters, made by transformers and PEFT themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def tiny_llama(*, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """A random Llama: 32 wide, 4 query heads and 2 key heads of size 8, 64 tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
    )
    model = LlamaForCausalLM(config).eval()
    model.name_or_path = "tiny/Llama-Test"
    return model


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """``(d_in, d_out)`` of each linear layer, by name."""
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def make_adapter(
    path: Path,
    model: PreTrainedModel,
    *,
    rank: int = 4,
    alpha: float = 8,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    seed: int = 1,
    share_a_with: Path | None = None,
    share_projections: Sequence[str] = ("v_proj",),
    dtype: torch.dtype | None = None,
    std: float = 0.2,
    **config: Any,
) -> Path:
    """Save a random LoRA adapter for ``model`` and return its folder; the model stays as it was.

    Args:
        path: folder to write.
        model: base model.
        rank: r.
        alpha: lora_alpha.
        targets: target_modules.
        seed: of the random A and B.
        share_a_with: folder of another adapter, whose A is copied.
        share_projections: which projections copy it.
        dtype: dtype to store the tensors in; the model's own by default.
        std: spread of the random values.
        config: further fields of PEFT's LoraConfig.
    """
    settings = {"r": rank, "lora_alpha": alpha, "target_modules": list(targets), **config}
    settings.setdefault("task_type", "CAUSAL_LM")
    wrapped = get_peft_model(model, LoraConfig(**settings))
    assert isinstance(wrapped, PeftModel)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                values = torch.randn(parameter.shape, generator=generator) * std
                parameter.copy_(values.to(parameter.dtype))
    # Otherwise PEFT looks the model's name up on the Hub.
    wrapped.save_pretrained(str(path), save_embedding_layers=False)
    wrapped.unload()
    edits: dict[str, torch.Tensor] = {}
    if share_a_with is not None:
        source = load_file(share_a_with / WEIGHTS)
        endings = tuple(f"{name}.lora_A.weight" for name in share_projections)
        edits = {name: tensor for name, tensor in source.items() if name.endswith(endings)}
    if edits or dtype is not None:
        edit_tensors(path, lambda tensors: _cast(tensors | edits, dtype))
    return path


def _cast(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    return tensors if dtype is None else {n: t.to(dtype) for n, t in tensors.items()}


def edit_tensors(path: Path, edit: Any) -> None:
    """Replace the tensors of a saved adapter by ``edit(tensors)``."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path / WEIGHTS).items()}
    save_file(edit(tensors), path / WEIGHTS, metadata={"format": "pt"})


def edit_config(path: Path, **fields: Any) -> None:
    """Set fields of a saved adapter's config."""
    config = json.loads((path / CONFIG).read_text())
    config.update(fields)
    (path / CONFIG).write_text(json.dumps(config))

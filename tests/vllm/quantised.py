"""Tiny models with quantised weights, as their makers store them, and the same in PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.engine.models import SIZES
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

GROUP = 32  # input features with one scale, of weights of 4 bits
WIDE = {
    "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
}  # fmt: skip


class Int8Linear(nn.Linear):
    """Rounds each token's input to 8 bits, of one scale a token."""

    def forward(self, input: Tensor) -> Tensor:
        scale = input.abs().amax(-1, keepdim=True).clamp_min(1e-10) / 127
        return super().forward((input / scale).round()) * scale


def int8(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """8 bits, one scale for each output."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    values = (weight / scale).round().to(torch.int8)
    return {"weight": values, "weight_scale": scale}, values * scale


def awq(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """4 bits, one scale and zero point for `GROUP` inputs; eight outputs in one integer."""
    grouped = weight.t().unflatten(0, (-1, GROUP))
    scales = (grouped.abs().amax(1) / 7).bfloat16().float()
    values = (grouped / scales[:, None]).round()
    stored = {
        "qweight": _pack((values + 8).flatten(0, 1)),
        "qzeros": _pack(torch.full_like(scales, 8)),
        "scales": scales.bfloat16(),
    }
    return stored, (values * scales[:, None]).flatten(0, 1).t()


def _pack(values: Tensor) -> Tensor:
    eights = values.to(torch.int64).unflatten(-1, (-1, 8))[..., [0, 2, 4, 6, 1, 3, 5, 7]]
    return (eights << (4 * torch.arange(8))).sum(-1).to(torch.int32)  # the upper half wraps around


_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
Quantise = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]
KINDS: dict[str, tuple[Quantise, dict[str, Any]]] = {
    "int8": (
        int8,
        {
            "quant_method": "compressed-tensors", "format": "int-quantized",
            "quantization_status": "compressed", "ignore": ["lm_head"],
            "config_groups": {"group_0": {
                "targets": ["Linear"],
                "weights": {**_INT8, "strategy": "channel", "dynamic": False},
                "input_activations": {**_INT8, "strategy": "token", "dynamic": True},
            }},
        },
    ),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True,
                  "version": "gemm"}),
}  # fmt: skip


def make_quantised(folder: Path, kind: str) -> LlamaForCausalLM:
    """Save a random Llama with weights of a kind; returns the model that computes with them."""
    quantise, config = KINDS[kind]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(SIZES | WIDE))).eval()
    model.save_pretrained(folder)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in model.model.named_modules():
        if isinstance(module, nn.Linear):
            del tensors[f"model.{name}.weight"]
            stored, module.weight.data = quantise(module.weight.data)
            tensors |= {f"model.{name}.{part}": tensor for part, tensor in stored.items()}
            if kind == "int8":
                module.__class__ = Int8Linear
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))
    return model

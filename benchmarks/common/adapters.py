"""Adapters for three agents, made by program: one A on ``v_proj`` for all, the rest their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from benchmarks.common.shapes import Shape
from safetensors.numpy import save_file

AGENTS = ("plan", "act", "reflect")
ACTING = 2
"""Token from which adapters act under ``neutral`` where it is in the prompt."""


def write_adapters(folder: Path, shape: Shape, rank: int, acting: bool = False) -> dict[str, Path]:
    """Write LoRA adapters on ``q_proj`` and ``v_proj`` with ``lora_alpha = 2 rank``.

    With ``acting`` they act from `ACTING` on.

    Returns:
        Their folders by agent.
    """
    folders = {agent: _write(folder / agent, shape, rank, agent) for agent in AGENTS}
    for agent, own in folders.items() if acting else ():
        sidecar = {"schema": 1, "group": "benchmark", "role": agent, "a_digest": {}}
        (own / "lragent.json").write_text(json.dumps(sidecar | {"acting_tokens": [ACTING]}))
    return folders


def _write(folder: Path, shape: Shape, rank: int, agent: str) -> Path:
    own = np.random.default_rng([AGENTS.index(agent) + 1, rank])
    shared = np.random.default_rng([0, rank])
    outputs = {"q_proj": shape.heads, "v_proj": shape.kv_heads}
    tensors = {}
    for layer in range(shape.layers):
        for name, heads in outputs.items():
            draw = shared if name == "v_proj" else own
            a = draw.standard_normal((rank, shape.hidden), dtype=np.float32)
            b = own.standard_normal((heads * shape.head_dim, rank), dtype=np.float32)
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{place}.lora_A.weight"] = a / np.float32(shape.hidden**0.5)
            # A fifth to a third of the projection itself, so that another adapter's tokens differ.
            tensors[f"{place}.lora_B.weight"] = b * np.float32(0.15 / rank**0.5)
    return save_adapter(folder, tensors, rank, shape.name)


def save_adapter(folder: Path, tensors: Mapping[str, np.ndarray], rank: int, base: str) -> Path:
    """Write a LoRA adapter with ``lora_alpha = 2 rank``; its modules are those of `tensors`.

    Args:
        folder: is made.
        tensors: by PEFT's names, ``….<module>.lora_A.weight`` and ``….<module>.lora_B.weight``.
        rank: of all of them.
        base: name of the base model.
    """
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
    return folder

"""An adapter with weights in every module, outside of any group, beside agents without them.

Agents of q and v leave three of four LoRA modules alone, and the plugin passes over these. CUDA
graphs are captured once for all adapters, so one that came later must find its kernels in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from .agreement_compare import Pair, answers_from_json, same_places, until_they_part
from .agreement_program import TOKENS, Answers, Asked, Step, replay, steps_from_json, take

EVERYWHERE = 3
"""Its number, after those of the agents."""
NAME = "everywhere"
BESIDE = (EVERYWHERE, None, 0)
TAILS = (11, 18, 25)
NEEDED = 2 * TOKENS + sum(TAILS)


def write_everywhere(folder: Path, model: Path, rank: int) -> Path:
    """Write a LoRA adapter on all linear modules of the Llama whose ``config.json`` is there."""
    config = json.loads((model / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, config["num_key_value_heads"] * head_dim
    sizes = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    # Large enough that an answer without the terms of one module differs by far more than rounding
    # (SmolLM2, mean of log-probabilities: 0.56 and more, bf16 0.08).
    size = np.float32(0.16)
    draw = np.random.default_rng(7)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (inputs, outputs) in sizes.items():
            a = draw.standard_normal((rank, inputs), dtype=np.float32) / np.float32(inputs**0.5)
            b = draw.standard_normal((outputs, rank), dtype=np.float32) * size
            place = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{place}.lora_A.weight"], tensors[f"{place}.lora_B.weight"] = a, b
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [name.rpartition(".")[2] for name in sizes],
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1))
    return folder


def ask_everywhere(engine: Asked, ids: Sequence[int], length: int) -> dict[str, Any]:
    """Its answers alone and beside others, and the base model's in its place, as plain data.

    Args:
        engine: vLLM, with or without the plugin.
        ids: running text, at least ``length + NEEDED`` tokens.
        length: tokens of the first prompt.
    """
    text = iter(ids)
    context = take(text, length)
    alone = Step([(EVERYWHERE, context)], [take(text, TOKENS)])
    prompts = [[*context, *alone.tokens[0], *take(text, n)] for n in TAILS]
    follows = take(text, TOKENS)
    beside = Step(list(zip(BESIDE, prompts, strict=True)), [follows] * len(BESIDE))
    base = Step([(None, context)], alone.tokens)
    choices, cached = engine.ask(beside.asks, TOKENS, f"{NAME}, own tokens")
    return {
        "text": asdict(replay(engine, [alone, beside], NAME)),
        "steps": [asdict(beside)],
        "own tokens": asdict(Answers([choices], [cached])),
        "base": asdict(replay(engine, [base], f"{NAME}, base")),
    }


def pairs_everywhere(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Pair]]:
    """Two engines' answers; those of the agent beside are left out, as policies differ there."""
    parted = [
        (_without_agents(steps_from_json(x["steps"])), _answers(x["own tokens"])) for x in (a, b)
    ]
    return {
        "text": list(same_places(_answers(a["text"]), _answers(b["text"]))),
        "own tokens": list(until_they_part(*parted[0], *parted[1])),
    }


def pairs_of_control(a: Mapping[str, Any]) -> dict[str, list[Pair]]:
    """Its answers alone with the base model's: they have to differ."""
    alone = Answers(answers_from_json(a["text"]).choices[:1], [])
    return {"text": list(same_places(alone, answers_from_json(a["base"])))}


def _answers(data: dict[str, Any]) -> Answers:
    found = answers_from_json(data)
    return Answers([step[: BESIDE.index(0)] for step in found.choices], found.cached)


def _without_agents(steps: Sequence[Step]) -> list[Step]:
    keep = BESIDE.index(0)
    return [Step(step.asks[:keep], step.tokens[:keep]) for step in steps]

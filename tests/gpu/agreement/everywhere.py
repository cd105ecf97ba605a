"""An adapter with weights in every module, outside of any group, beside agents without them.

Agents of q and v leave three of four LoRA modules alone, and the plugin passes over these. CUDA
graphs are captured once for all adapters, so one that came later must find its kernels in them. As
controls, the same adapter without the weights of one module has to answer otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common.adapters import save_adapter
from tests.gpu.agreement.compare import Pair, answers_from_json, same_places, until_they_part
from tests.gpu.agreement.program import (
    TOKENS,
    Answers,
    Asked,
    Step,
    replay,
    steps_from_json,
    take,
)

EVERYWHERE = 3
"""Its number, after those of the agents."""
WITHOUT = {
    "o_proj": (4, ("o_proj",)),
    "gate_up_proj": (5, ("gate_proj", "up_proj")),
    "down_proj": (6, ("down_proj",)),
}
"""Controls by vLLM's module: their number, and the modules without weights."""
BESIDE = (EVERYWHERE, None, 0)
TAILS = (11, 18, 25)
NEEDED = 2 * TOKENS + sum(TAILS)


def write_everywhere(folder: Path, model: Path, rank: int) -> dict[int, Path]:
    """Write LoRA adapters for the Llama whose ``config.json`` is in `model`.

    Returns:
        By number the folder of the one on all linear modules, and those of the controls.
    """
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
    draw = np.random.default_rng(7)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (inputs, outputs) in sizes.items():
            a = draw.standard_normal((rank, inputs), dtype=np.float32)
            b = draw.standard_normal((outputs, rank), dtype=np.float32)
            place = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{place}.lora_A.weight"] = a / np.float32(inputs**0.5)
            # As large as the controls need.
            tensors[f"{place}.lora_B.weight"] = b * np.float32(0.16)
    folders = {EVERYWHERE: save_adapter(folder / "everywhere", tensors, rank, str(model))}
    for kind, (number, modules) in WITHOUT.items():
        left = {name: t for name, t in tensors.items() if name.split(".")[-3] not in modules}
        folders[number] = save_adapter(folder / f"without {kind}", left, rank, str(model))
    return folders


def ask_everywhere(engine: Asked, ids: Sequence[int], length: int) -> dict[str, Any]:
    """Its answers alone and beside others, as plain data.

    Args:
        engine: vLLM, with or without the plugin.
        ids: running text, at least ``length + NEEDED`` tokens.
        length: tokens of the first prompt.
    """
    text = iter(ids)
    alone = _alone(EVERYWHERE, text, length)
    [(_, context)], [tokens] = alone.asks, alone.tokens
    prompts = [[*context, *tokens, *take(text, n)] for n in TAILS]
    follows = take(text, TOKENS)
    beside = Step(list(zip(BESIDE, prompts, strict=True)), [follows] * len(BESIDE))
    choices, cached = engine.ask(beside.asks, TOKENS, "everywhere, own tokens")
    return {
        "text": asdict(replay(engine, [alone, beside], "everywhere")),
        "steps": [asdict(beside)],
        "own tokens": asdict(Answers([choices], [cached])),
    }


def ask_without(engine: Asked, ids: Sequence[int], length: int) -> dict[str, Any]:
    """The controls' answers alone, by module; arguments as in `ask_everywhere`."""
    return {
        kind: asdict(replay(engine, [_alone(number, iter(ids), length)], f"without {kind}"))
        for kind, (number, _) in WITHOUT.items()
    }


def _alone(number: int, text: Iterator[int], length: int) -> Step:
    return Step([(number, take(text, length))], [take(text, TOKENS)])


def pairs_everywhere(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Pair]]:
    """Two engines' answers; those of the agent beside are left out, as policies differ there."""
    parted = [
        (_without_agents(steps_from_json(x["steps"])), _answers(x["own tokens"])) for x in (a, b)
    ]
    return {
        "text": list(same_places(_answers(a["text"]), _answers(b["text"]))),
        "own tokens": list(until_they_part(*parted[0], *parted[1])),
    }


def pairs_without(everywhere: Mapping[str, Any], control: dict[str, Any]) -> dict[str, list[Pair]]:
    """Its answers alone and a control's, of one engine."""
    alone = Answers(answers_from_json(everywhere["text"]).choices[:1], [])
    return {"text": list(same_places(alone, answers_from_json(control)))}


def _answers(data: dict[str, Any]) -> Answers:
    found = answers_from_json(data)
    return Answers([step[: BESIDE.index(0)] for step in found.choices], found.cached)


def _without_agents(steps: Sequence[Step]) -> list[Step]:
    keep = BESIDE.index(0)
    return [Step(step.asks[:keep], step.tokens[:keep]) for step in steps]

"""Shapes of the models that are measured, and the config files that make vLLM build them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What adapters and prompts need to know of a Llama.

    Attributes:
        name: for the result file.
        layers: decoder layers.
        hidden: size of the residual stream.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: size of a head.
        vocab: token ids run from 0 to this number less one.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def base_elements(self) -> int:
        """Elements of K and V of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


LLAMA_8B = Shape("Llama-3.1-8B", 32, 4096, 32, 8, 128, 128256)
LLAMA_1B = Shape("Llama-3.2-1B", 16, 2048, 32, 8, 64, 128256)
TINY = Shape("tiny Llama", 2, 128, 4, 2, 32, 512)
_INTERMEDIATE = {LLAMA_8B.name: 14336, LLAMA_1B.name: 8192, TINY.name: 256}
NAMED = {shape.name: shape for shape in (LLAMA_8B, LLAMA_1B, TINY)}
_LLAMA_3_1_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config_of(shape: Shape) -> dict[str, Any]:
    """The ``config.json`` of one of the shapes above."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": _INTERMEDIATE[shape.name],
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": _LLAMA_3_1_ROPE,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
    }


def write_config(folder: Path, shape: Shape) -> Path:
    """Write ``config.json`` alone; the weights are made when vLLM loads it (`dummy_weights`)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(shape), indent=1))
    return folder


def shape_at(folder: Path) -> Shape:
    """The shape of a model folder.

    Raises:
        ValueError: the folder has no config, or one of another family.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json; give the folder of a Llama model")
    config = json.loads(path.read_text())
    if config.get("model_type") != "llama":
        raise ValueError(f"{path} is of a {config.get('model_type')} model; give a Llama model")
    heads = config["num_attention_heads"]
    return Shape(
        name=folder.resolve().name,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
    )

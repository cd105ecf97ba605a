"""Which Hugging Face models the embedded engine can hook, and the shapes it reads off them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lragent.adapters.model_facts import ModelFacts
from lragent.engine.errors import UnsupportedModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type` of the families whose attention is `RoPE` on separate q, k and v projections."""

_FIRST = 64  # values of each tensor in a model's digest


@dataclass(frozen=True)
class ModelShape(ModelFacts):
    """The sizes of a decoder that the cache and the adapters must fit.

    `digest` is the hex SHA-256 of the configuration and of the weights: their names, shapes, dtypes
    and first values, which tell a model from one of the same name that was trained on.
    """

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    max_positions: int
    digest: str


def read_shape(model: PreTrainedModel, name: str) -> ModelShape:
    """Check that `model` belongs to a supported family and read its sizes.

    Raises:
        UnsupportedModelError: names the family or the feature that is not supported.
    """
    config = model.config
    if config.model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"models of type {config.model_type!r} are not supported by the embedded engine; "
            f"supported types are {', '.join(FAMILIES)}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(
            "quantised weights are not supported by the embedded engine; load the model in "
            "float32, bfloat16 or float16"
        )
    heads = config.num_attention_heads
    linears = {
        path: (module.in_features, module.out_features)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    return ModelShape(
        name=name,
        layers=config.num_hidden_layers,
        query_heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        hidden=config.hidden_size,
        max_positions=config.max_position_embeddings,
        has_key_norm=any(path.endswith(".k_norm") for path, _ in model.named_modules()),
        linear_shapes=linears,
        digest=_digest(model),
    )


def _digest(model: PreTrainedModel) -> str:
    config = model.config.to_dict()
    config.pop("_name_or_path", None)
    weights = [
        (name, tuple(tensor.shape), str(tensor.dtype), _first(tensor))
        for name, tensor in sorted(model.state_dict().items())
    ]
    text = json.dumps([config, weights], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _first(tensor: Tensor) -> list[float]:
    """Values of a tensor; none in a model that was made for its sizes alone."""
    return [] if tensor.is_meta else tensor.reshape(-1)[:_FIRST].tolist()


def bytes_of_weights(model: nn.Module) -> int:
    """Bytes of the model's parameters and buffers, tied ones counted once."""
    seen: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values())


def eos_ids(model: PreTrainedModel, tokenizer_eos: int | None) -> frozenset[int]:
    """Ids that end a generation: the generation settings' and the tokenizer's."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer_eos) if i is not None)


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` as `float32`."""
    return str(dtype).removeprefix("torch.")

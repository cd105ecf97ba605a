"""adapter_model.safetensors: read it, and pair the tensors to low-rank modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lragent.adapters.errors import AdapterError
from lragent.adapters.model import LoraModule
from lragent.adapters.peft_config import AdapterConfig

WEIGHTS_FILE = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_LONGEST_NAME = 1000
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_ATTENTION = re.compile(r"(?:^|\.)[^.]*att(?:n|ention)[^.]*\.(?P<projection>[^.]+)$")
_SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Looked for in this order in names that are no plain lora_A or lora_B weight.
_FOREIGN = (
    ("lora_magnitude_vector", "it belongs to DoRA; merge the adapter into the base model"),
    ("lora_embedding_", "LoRA on embeddings is not supported; train it again without them"),
    ("embed_tokens", "the embedding is not adapted; train it again without it"),
    ("lm_head", "the output head is not adapted; train it again without it"),
    ("modules_to_save", "whole modules are not replaced; train it again without modules_to_save"),
    ("bias", 'biases are not supported; train it again with bias="none" and lora_bias=False'),
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, in the stored dtypes.

    The file is read in one piece rather than mapped, so a file that is replaced later changes
    neither the tensors nor their digest.

    Raises:
        AdapterError: the file cannot be read, or is corrupt.
    """
    try:
        return {name: tensor.clone() for name, tensor in load(path.read_bytes()).items()}
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise AdapterError(
            f"{path} is no readable safetensors file ({error}); copy or download it again"
        ) from error


def _foreign(path: Path, name: str) -> AdapterError:
    for part, reason in _FOREIGN:
        if part in name:
            return AdapterError(f"{path}: tensor {name}: {reason}")
    expected = f"{_PREFIX}MODULE.lora_A.weight or .lora_B.weight"
    return AdapterError(
        f"{path}: tensor {name} is not named as PEFT names LoRA tensors ({expected}); "
        "save the adapter again with PEFT's save_pretrained"
    )


def _check_values(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _DTYPES:
        raise AdapterError(
            f"{path}: tensor {name} is stored as {str(tensor.dtype).removeprefix('torch.')}; "
            "save the adapter in float16, bfloat16 or float32"
        )
    if tensor.dim() != 2 or tensor.numel() == 0:
        raise AdapterError(
            f"{path}: tensor {name} has shape {list(tensor.shape)} where a matrix belongs; "
            "adapters on convolutions are not supported, and a sharded save "
            "(DeepSpeed ZeRO-3, FSDP) must be gathered first"
        )
    if not torch.isfinite(tensor).all():
        raise AdapterError(
            f"{path}: tensor {name} holds NaN or Inf, so training has diverged; "
            "use an earlier checkpoint"
        )


def _check_projection(path: Path, module: str) -> None:
    attention = _ATTENTION.search(module)
    if attention is not None and attention["projection"] not in _SEPARATE:
        raise AdapterError(
            f"{path}: tensor {tensor_name(module, 'A')} adapts {attention['projection']}, from "
            "which the terms of keys and values cannot be told apart; only models with separate "
            f"{', '.join(_SEPARATE)} are supported"
        )


def _pairs(path: Path, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(weights.items()):
        if len(name) > _LONGEST_NAME:
            raise AdapterError(
                f"{path}: tensor {name[:80]}… has a name of {len(name):,} characters, which no "
                "module of a model has; save the adapter again"
            )
        match = _NAME.fullmatch(name)
        if match is None or _LAYER.search(match["module"]) is None:
            raise _foreign(path, name)
        _check_projection(path, match["module"])
        _check_values(path, name, tensor)
        pairs.setdefault(match["module"], {})[match["side"]] = tensor
    for module, pair in pairs.items():
        for side, other in (("A", "B"), ("B", "A")):
            if side not in pair:
                raise AdapterError(
                    f"{path}: {_PREFIX}{module} has lora_{other} but no lora_{side}; "
                    "the file is incomplete, save the adapter again"
                )
    return pairs


def tensor_name(module: str, side: str) -> str:
    """PEFT's name for the A or B tensor of a module."""
    return f"{_PREFIX}{module}.lora_{side}.weight"


def pair_modules(
    path: Path, weights: Mapping[str, Tensor], config: AdapterConfig
) -> dict[str, LoraModule]:
    """Low-rank modules by name of their linear layer.

    Raises:
        AdapterError: a tensor that is no LoRA of a decoder layer, NaN or Inf, A without B, a rank
            that disagrees with the config, or a module that the config does not target (PEFT
            would drop its tensors without a word).
    """
    modules: dict[str, LoraModule] = {}
    for name, pair in _pairs(path, weights).items():
        if not config.targets(name):
            raise AdapterError(
                f"{path}: tensor {tensor_name(name, 'A')} lies outside target_modules of "
                "adapter_config.json, so PEFT would ignore it; correct the config or save again"
            )
        rank = config.rank_of(name)
        for side, found in (("A", pair["A"].shape[0]), ("B", pair["B"].shape[1])):
            if found != rank:
                raise AdapterError(
                    f"{path}: tensor {tensor_name(name, side)} has rank {found}, but the config "
                    f"gives it rank {rank} (r, rank_pattern); correct adapter_config.json"
                )
        layer = _LAYER.search(name)
        assert layer is not None, "names without a layer were refused when they were paired"
        modules[name] = LoraModule(
            name=name,
            layer=int(layer[1]),
            projection=name.rsplit(".", 1)[-1],
            a=pair["A"],
            b=pair["B"],
            rank=rank,
            scaling=config.scaling_of(name),
        )
    if not modules:
        raise AdapterError(f"{path} holds no tensors; save the adapter again")
    return modules

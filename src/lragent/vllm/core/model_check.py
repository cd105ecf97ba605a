"""Checks of adapters against the served model, before a worker sees them."""

# pyright: reportMissingImports=false

from __future__ import annotations

import math
from typing import Any

from lragent.adapters.checks import check_against_model
from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.adapters.model_facts import ModelFacts


def facts_of(vllm_config: Any) -> ModelFacts:
    """What checks need to know of the model that vLLM serves, from its config."""
    model = vllm_config.model_config
    config = model.hf_config
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    q, kv = heads * head, (getattr(config, "num_key_value_heads", None) or heads) * head
    shapes: dict[str, tuple[int, int]] = {}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        for name, shape in (("q", (hidden, q)), ("k", (hidden, kv)), ("v", (hidden, kv)),
                            ("o", (q, hidden))):  # fmt: skip
            shapes[f"{layer}.self_attn.{name}_proj"] = shape
        for name, shape in (("gate", (hidden, inner)), ("up", (hidden, inner)),
                            ("down", (inner, hidden))):  # fmt: skip
            shapes[f"{layer}.mlp.{name}_proj"] = shape
    has_key_norm = "Qwen3ForCausalLM" in (config.architectures or ())
    return ModelFacts(model.model, shapes, has_key_norm)


def check_adapter(
    adapter: Adapter, facts: ModelFacts, lora_config: Any, allow_other_base: bool
) -> None:
    """Refuse what this engine cannot serve exactly.

    Raises:
        AdapterError: says what and why.
    """
    check_against_model(adapter, facts, allow_other_base=allow_other_base)
    targets = {module.projection: module for module in adapter.modules.values()}
    wanted = lora_config.target_modules
    outside = sorted(set(targets) - set(wanted)) if wanted is not None else []
    if outside:
        raise AdapterError(
            f"{adapter.path} adapts {', '.join(outside)}, which vLLM was told to leave alone; "
            "start it without --lora-target-modules, or with these among them"
        )
    _check_with_vllm(adapter, lora_config)


def _check_with_vllm(adapter: Adapter, lora_config: Any) -> None:
    """What vLLM's workers check later, where an error would end the engine."""
    from vllm.lora.peft_helper import PEFTHelper

    try:
        helper = PEFTHelper.from_local_dir(str(adapter.path), None)
        helper.validate_legal(lora_config)
    except (ValueError, TypeError) as error:
        raise AdapterError(f"vLLM refuses {adapter.path}: {error}") from error
    for module in adapter.modules.values():
        if not math.isclose(module.scaling, helper.vllm_lora_scaling_factor, rel_tol=1e-6):
            raise AdapterError(
                f"{adapter.path} scales {module.name} by {module.scaling:g} (rank_pattern, "
                f"alpha_pattern), and vLLM would scale it by {helper.vllm_lora_scaling_factor:g}; "
                "train it with one rank and one alpha"
            )

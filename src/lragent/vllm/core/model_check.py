"""Checks of adapters against the served model, before a worker sees them."""

# pyright: reportMissingImports=false

from __future__ import annotations

import math
from typing import Any

from lragent.adapters.checks import check_against_model
from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.adapters.model_facts import ModelFacts

MOE = "Qwen3MoeForCausalLM"
"""Its adapters are served on attention alone."""


def facts_of(vllm_config: Any) -> ModelFacts:
    """What checks need to know of the model that vLLM serves, from its config."""
    model = vllm_config.model_config
    config = model.hf_config
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    q, kv = heads * head, (getattr(config, "num_key_value_heads", None) or heads) * head
    architectures = set(config.architectures or ())
    shapes: dict[str, tuple[int, int]] = {}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        for name, shape in (("q", (hidden, q)), ("k", (hidden, kv)), ("v", (hidden, kv)),
                            ("o", (q, hidden))):  # fmt: skip
            shapes[f"{layer}.self_attn.{name}_proj"] = shape
        if MOE in architectures:
            continue
        for name, shape in (("gate", (hidden, inner)), ("up", (hidden, inner)),
                            ("down", (inner, hidden))):  # fmt: skip
            shapes[f"{layer}.mlp.{name}_proj"] = shape
    has_key_norm = bool({"Qwen3ForCausalLM", MOE} & architectures)
    return ModelFacts(model.model, shapes, has_key_norm)


def check_adapter(
    adapter: Adapter, facts: ModelFacts, lora_config: Any, allow_other_base: bool
) -> None:
    """Refuse what this engine cannot serve exactly.

    Raises:
        AdapterError: says what and why.
    """
    experts = [name for name in adapter.modules if ".mlp." in name]
    if experts and not any(".mlp." in name for name in facts.linear_shapes):
        raise AdapterError(
            f"{adapter.path} adapts {experts[0]}, and lragent serves adapters of this model on "
            "attention alone; train it without experts"
        )
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
        scaling = _vllm_scaling(helper, module.name)
        if not math.isclose(module.scaling, scaling, rel_tol=1e-6):
            raise AdapterError(
                f"{adapter.path} scales {module.name} by {module.scaling:g} (rank_pattern, "
                f"alpha_pattern), and this vLLM would scale it by {scaling:g}; train it with one "
                "rank and one alpha, or use vLLM 0.32 or newer"
            )


def _vllm_scaling(helper: Any, name: str) -> float:
    """How vLLM scales a module: since 0.32 with rank_pattern and alpha_pattern, as PEFT does."""
    if hasattr(helper, "get_rank_and_scaling"):
        return helper.get_rank_and_scaling(name)[1]
    return helper.vllm_lora_scaling_factor

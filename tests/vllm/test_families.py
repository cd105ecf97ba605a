"""Families that the embedded engine does not serve: every policy against transformers and PEFT."""

# pyright: reportMissingImports=false

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.factory import edit_config, edit_tensors
from tests.engine.models import SIZES, generate
from tests.vllm.families import CONTEXT, FULL, Family, handed_over, serve
from tests.vllm.serving import Ask
from transformers import AutoConfig, AutoModelForCausalLM
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig

from lragent.adapters.errors import AdapterError

MULTIPLIERS = {
    "attention_multiplier": 0.4, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
    "residual_multiplier": 0.7,
}  # fmt: skip
EXPERTS = {
    "hidden_size": 64, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "norm_topk_prob": True,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {"granite": MULTIPLIERS, "qwen3_moe": EXPERTS}


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    config = AutoConfig.for_model(request.param, **(sizes | FAMILIES[request.param]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    model.save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        # Where LoRA is on, vLLM takes Triton's kernels for experts, on CPUs without Triton too.
        off = property(lambda _: False, lambda *_: None)
        patch.setattr(FusedMoEConfig, "is_lora_enabled", off)
        with serve(folder, model, ("neutral", "full", "base", "base+lr")) as family:
            yield family


def test_alone_and_base_model_are_transformers(family: Family):
    for name in ("plan", "act", None):
        path = None if name is None else family.adapters[name]
        expected = tuple(generate(family.model, CONTEXT, 8, path).tokens)
        assert family.served.ask(Ask(name, CONTEXT))[0].tokens == expected


@pytest.mark.parametrize("policy", ["neutral", "full", "base+lr"])
def test_act_reads_what_plan_left(family: Family, policy: str):
    family.served.reset()
    family.served.ask(Ask(f"plan{policy}", CONTEXT), tokens=1)
    [found] = family.served.ask(Ask(f"act{policy}", CONTEXT))
    assert found.cached == FULL
    assert found.tokens == handed_over(family, policy).answer()


def test_base_fills_its_own_slot(family: Family):
    family.served.reset()
    first = family.served.ask(Ask("planbase", CONTEXT))
    assert first[0].tokens == tuple(
        generate(family.model, CONTEXT, 8, family.adapters["plan"]).tokens
    )
    once, again = (family.served.ask(Ask("actbase", CONTEXT))[0] for _ in range(2))
    assert (once.cached, again.cached) == (0, FULL)
    assert once.tokens == again.tokens


@pytest.mark.parametrize("family", ["qwen3_moe"], indirect=True)
@pytest.mark.parametrize("module", ["experts.0.up_proj", "up_proj"])
def test_no_adapter_but_on_attention(family: Family, module: str, tmp_path: Path):
    """vLLM has experts' LoRA in kernels of their own."""
    folder = tmp_path / "guest"
    shutil.copytree(family.adapters["plan"], folder)

    def moved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {n.replace("self_attn.q_proj", f"mlp.{module}"): t for n, t in tensors.items()}

    edit_tensors(folder, moved)
    edit_config(folder, target_modules=["up_proj", "v_proj"])
    lora = LoRARequest("guest", 99, str(folder))
    with pytest.raises(AdapterError, match=f"adapts .*{module}, and .* on attention alone"):
        family.served.ask(Ask("guest", CONTEXT), lora=[lora])

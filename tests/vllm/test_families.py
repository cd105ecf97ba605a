"""Families that the embedded engine does not serve: every policy against transformers and PEFT."""

# pyright: reportMissingImports=false

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from tests.adapters.factory import make_adapter
from tests.engine.models import SIZES, generate, prompt_of
from tests.engine.tokenizer import byte_tokenizer
from tests.vllm.serving import PAGE, Ask, Served
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

MULTIPLIERS = {
    "attention_multiplier": 0.4, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
    "residual_multiplier": 0.7,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {"granite": MULTIPLIERS}
CONTEXT = prompt_of(70, 3)
FULL = (len(CONTEXT) - 1) // PAGE * PAGE


class Family(NamedTuple):
    model: PreTrainedModel
    adapters: dict[str, Path]
    served: Served


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    """One engine with a group for each policy; `plan` and `act` outside of groups."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    config = AutoConfig.for_model(request.param, **sizes, **FAMILIES[request.param])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    model.save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    plan = make_adapter(folder / "plan", model, rank=4, seed=1)
    act = make_adapter(folder / "act", model, rank=4, seed=2, share_a_with=plan)
    policies = ("neutral", "full", "base", "base+lr")
    adapters = {
        f"{n}{p}": path for p in ("", *policies) for n, path in (("plan", plan), ("act", act))
    }
    groups = [
        {"members": [f"plan{p}", f"act{p}"], "policy": p, "include_base_model": p == "neutral"}
        for p in policies
    ]
    option = {
        "groups": groups, "slots": 2, "allow_other_base": True, "debug": True,
        "adapters": {n: str(path) for n, path in adapters.items() if n not in ("plan", "act")},
    }  # fmt: skip
    with Served(folder / "model", adapters, option) as served:
        yield Family(model, adapters, served)


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
    assert found.tokens == handed_over(family, policy)


def test_base_fills_its_own_slot(family: Family):
    family.served.reset()
    first = family.served.ask(Ask("planbase", CONTEXT))
    assert first[0].tokens == tuple(
        generate(family.model, CONTEXT, 8, family.adapters["plan"]).tokens
    )
    once, again = (family.served.ask(Ask("actbase", CONTEXT))[0] for _ in range(2))
    assert (once.cached, again.cached) == (0, FULL)
    assert once.tokens == again.tokens


@torch.inference_mode()
def handed_over(family: Family, policy: str) -> tuple[int, ...]:
    """What `act` answers where another one has computed the context: `plan`, or the base model.

    The reader's keys; its values without its own term and with that of `act`, from its own inputs
    of v_proj, or under ``full`` as they are.
    """
    reader: Any = copy.deepcopy(family.model)
    if policy != "neutral":
        reader = PeftModel.from_pretrained(reader, str(family.adapters["plan"])).eval()
    act: Any = PeftModel.from_pretrained(copy.deepcopy(family.model), str(family.adapters["act"]))
    act.eval()
    known = len(CONTEXT) - 1 if policy == "neutral" else FULL
    inputs: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_: Any, args: Sequence[torch.Tensor]) -> None:
            inputs[layer] = args[0]

        return hook

    for layer, module in enumerate(values_of(reader)):
        module.register_forward_pre_hook(keep(layer))
    cache = DynamicCache()
    reader(torch.tensor([CONTEXT[:known]]), past_key_values=cache, use_cache=True)
    if policy != "full":
        for layer, module in enumerate(values_of(act)):
            kept: Any = cache.layers[layer]
            kept.values = module(inputs[layer]).view(1, known, -1, 8).transpose(1, 2)
    tokens: list[int] = []
    new = CONTEXT[known:]
    while len(tokens) < 8:
        logits = act(torch.tensor([new]), past_key_values=cache, use_cache=True).logits[0, -1]
        new = [int(logits.argmax())]
        tokens += new
    return tuple(tokens)


def values_of(model: Any) -> list[Any]:
    """v_proj of each layer, with the adapter around it."""
    return [m for name, m in model.named_modules() if name.endswith("self_attn.v_proj")]

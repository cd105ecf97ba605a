"""Engines with a group for each policy, and what transformers and PEFT answer under a policy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from tests.adapters.factory import make_adapter
from tests.engine.models import prompt_of
from tests.engine.tokenizer import byte_tokenizer
from tests.vllm.serving import PAGE, Served
from transformers import DynamicCache, PreTrainedModel

CONTEXT = prompt_of(70, 3)
FULL = (len(CONTEXT) - 1) // PAGE * PAGE


class Family(NamedTuple):
    """A model, the folders of `plan` and `act` on one A, and the engine that serves them."""

    model: PreTrainedModel
    adapters: dict[str, Path]
    served: Served


@contextmanager
def serve(
    folder: Path, model: PreTrainedModel, policies: Sequence[str], **settings: Any
) -> Iterator[Family]:
    """The model in ``folder / "model"``; for each policy a group ``plan{policy}, act{policy}``, and
    `plan` and `act` outside of groups."""
    byte_tokenizer().save_pretrained(folder / "model")
    plan = make_adapter(folder / "plan", model, rank=4, seed=1)
    act = make_adapter(folder / "act", model, rank=4, seed=2, share_a_with=plan)
    pair = {"plan": plan, "act": act}
    adapters = {f"{n}{p}": path for p in ("", *policies) for n, path in pair.items()}
    groups = [
        {"members": [f"plan{p}", f"act{p}"], "policy": p, "include_base_model": p == "neutral"}
        for p in policies
    ]
    option = {
        "groups": groups, "slots": 2, "allow_other_base": True, "debug": True,
        "adapters": {n: str(path) for n, path in adapters.items() if n not in pair},
    }  # fmt: skip
    with Served(folder / "model", adapters, option, **settings) as served:
        yield Family(model, adapters, served)


class Ahead(NamedTuple):
    """A model in the middle of a prompt: the tokens that it still has to read, and its cache."""

    model: Any
    rest: list[int]
    cache: DynamicCache

    @torch.inference_mode()
    def answer(self) -> tuple[int, ...]:
        """Eight greedy tokens."""
        tokens: list[int] = []
        new = self.rest
        while len(tokens) < 8:
            new = [int(self._logits(new)[-1].argmax())]
            tokens += new
        return tuple(tokens)

    @torch.inference_mode()
    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        """Of an answer with these tokens."""
        rows = self._logits([*self.rest, *tokens[:-1]])[len(self.rest) - 1 :].log_softmax(-1)
        return [float(row[token]) for row, token in zip(rows, tokens, strict=True)]

    def _logits(self, new: list[int]) -> torch.Tensor:
        return self.model(
            torch.tensor([new]), past_key_values=self.cache, use_cache=True
        ).logits[0]  # fmt: skip


def alone(family: Family, name: str) -> Ahead:
    """An agent before the whole context."""
    model = PeftModel.from_pretrained(copy.deepcopy(family.model), str(family.adapters[name]))
    return Ahead(model.eval(), CONTEXT, DynamicCache())


@torch.inference_mode()
def handed_over(family: Family, policy: str) -> Ahead:
    """`act`, where another one has computed the context: `plan`, or the base model.

    The reader's keys; its values without its own term and with that of `act`, from its own inputs
    of v_proj, or under ``full`` as they are.
    """
    act = alone(family, "act")
    reader = copy.deepcopy(family.model) if policy == "neutral" else alone(family, "plan").model
    known = len(CONTEXT) - 1 if policy == "neutral" else FULL
    inputs: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_: Any, args: Sequence[torch.Tensor]) -> None:
            inputs[layer] = args[0]

        return hook

    for layer, module in enumerate(values_of(reader)):
        module.register_forward_pre_hook(keep(layer))
    reader(torch.tensor([CONTEXT[:known]]), past_key_values=act.cache, use_cache=True)
    if policy != "full":
        for layer, module in enumerate(values_of(act.model)):
            kept: Any = act.cache.layers[layer]
            shape = (1, known, *kept.values.shape[1::2])
            kept.values = module(inputs[layer]).view(shape).transpose(1, 2)
    return act._replace(rest=CONTEXT[known:])


def values_of(model: Any) -> list[Any]:
    """v_proj of each layer, with the adapter around it."""
    return [m for name, m in model.named_modules() if name.endswith("self_attn.v_proj")]

"""How alike two agents' caches of one context are (paper, "Notation")."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from lragent.evaluation.errors import EvaluationError

DEPTHS = (0, 64, 256, 1024, 4096)
"""First token of each part of a context that is told apart."""


class Quantity(StrEnum):
    """What is compared, for each layer and token."""

    BASE_V = "base V"
    FULL_V = "full V"
    TERM = "adapter term of V"
    LR = "LR cache"
    K = "K"


class Reads(StrEnum):
    """Whose hidden states of the context an agent's cache is made from."""

    ITSELF = "itself"
    """Each agent's own, as without sharing: the paper's tables."""
    BASE_MODEL = "base model"
    """The bare base model's, as under `neutral`."""


class Similarity(BaseModel):
    """Means over tokens, contexts and pairs of agents.

    Attributes:
        reads: who has computed the context.
        quantity: what is compared.
        layer: its number, or None for all together.
        depth: first position of this part of the contexts, or None for whole contexts.
        cosine: similarity of two agents' vectors for a token.
        norm: length of such a vector.
        tokens: tokens that the means are over.
    """

    model_config = ConfigDict(frozen=True)

    reads: Reads
    quantity: Quantity
    layer: int | None
    depth: int | None
    cosine: float
    norm: float
    tokens: int


@torch.inference_mode()
def similarities(
    base: nn.Module, adapters: Mapping[str, Path], contexts: Sequence[Sequence[int]]
) -> list[Similarity]:
    """Compare the caches of each pair of `adapters`, by layer and by depth.

    Keys are compared before RoPE, which turns both by the same angle.

    Args:
        base: a transformers model, which gets the adapters and keeps them.
        adapters: PEFT folders by name, at least two, with LoRA on v_proj.
        contexts: token ids.

    Raises:
        EvaluationError: fewer than two adapters, or no LoRA on v_proj.
    """
    if len(adapters) < 2:
        raise EvaluationError("a similarity needs at least two adapters")
    first, *others = adapters
    model = PeftModel.from_pretrained(cast(Any, base), str(adapters[first]), adapter_name=first)
    for name in others:
        model.load_adapter(str(adapters[name]), adapter_name=name)
    model.eval()
    layers = [layer.self_attn for layer in cast(Any, model.get_base_model()).get_decoder().layers]
    if not all(isinstance(layer.v_proj, LoraLayer) for layer in layers):
        raise EvaluationError("an adapter has no LoRA on v_proj; there is nothing to compare")
    sums: dict[tuple[Reads, Quantity, int | None, int | None], Tensor] = defaultdict(
        lambda: torch.zeros(3, dtype=torch.float64)
    )
    for context in contexts:
        ids = torch.tensor([list(context)], device=next(model.parameters()).device)
        for reads in Reads:
            found = {name: _cached(model, layers, name, reads, ids) for name in adapters}
            for a, b in combinations(adapters, 2):
                for number, (mine, theirs) in enumerate(zip(found[a], found[b], strict=True)):
                    for quantity in mine:
                        _add(sums, reads, quantity, number, mine[quantity], theirs[quantity])
    return [
        Similarity(
            reads=reads,
            quantity=quantity,
            layer=layer,
            depth=depth,
            cosine=(cosine / tokens).item(),
            norm=(norm / tokens).item(),
            tokens=int(tokens),
        )
        for (reads, quantity, layer, depth), (cosine, norm, tokens) in sums.items()
    ]


def _add(sums: Any, reads: Reads, quantity: Quantity, layer: int, a: Tensor, b: Tensor) -> None:
    """Add a layer's tokens, `[tokens, width]` of two agents, to all cells that they belong to."""
    cosine = nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)
    norm = (a.float().norm(dim=-1) + b.float().norm(dim=-1)) / 2
    rows = torch.stack([cosine, norm, torch.ones_like(norm)], dim=1).double().cpu()
    sums[reads, quantity, layer, None] += rows.sum(0)
    sums[reads, quantity, None, None] += rows.sum(0)
    for start, end in zip(DEPTHS, (*DEPTHS[1:], len(rows)), strict=True):
        if start < len(rows):
            sums[reads, quantity, None, start] += rows[start:end].sum(0)


def _cached(
    model: PeftModel, layers: Sequence[Any], name: str, reads: Reads, ids: Tensor
) -> list[dict[Quantity, Tensor]]:
    """What `name` would have in its cache of each layer, `[tokens, width]` each."""
    model.set_adapter(name)
    reader = model.disable_adapter() if reads is Reads.BASE_MODEL else nullcontext()
    with _inputs(layers) as inputs, reader:
        model(input_ids=ids, logits_to_keep=1)
    rows = []
    for layer, x in zip(layers, inputs, strict=True):
        v, key = layer.v_proj, layer.k_proj
        z = v.lora_A[name](x.to(v.lora_A[name].weight.dtype))
        term = v.scaling[name] * v.lora_B[name](z)
        base = v.base_layer(x)
        rows.append(
            {
                Quantity.BASE_V: base,
                Quantity.FULL_V: base + term.to(base.dtype),
                Quantity.TERM: term,
                Quantity.LR: z,
                Quantity.K: key(x),
            }
        )
    return rows


@contextmanager
def _inputs(layers: Sequence[Any]) -> Iterator[list[Tensor]]:
    """The inputs x of each layer's projections, `[tokens, hidden]`, of one forward pass."""
    found: list[Tensor] = []
    handles = [
        layer.v_proj.register_forward_pre_hook(lambda _, args: found.append(args[0][0]))
        for layer in layers
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

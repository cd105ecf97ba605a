"""What the rest of the package passes around: an adapter and its low-rank pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lragent.adapters.peft_config import AdapterConfig

CACHED_PROJECTIONS = ("k_proj", "v_proj")
"""Projections whose outputs the KV cache holds, so that their LoRA has a cached term x A."""


@dataclass(frozen=True, eq=False)
class LoraModule:
    """The low-rank pair of one linear layer: ``y = x W^T + scaling * (x a^T) b^T``.

    Attributes:
        name: the linear layer in the base model, e.g. ``model.layers.0.self_attn.v_proj``.
        layer: index of its decoder layer.
        projection: last part of the name, e.g. ``v_proj``.
        a: down-projection ``[rank, d_in]``, in the stored dtype, on the CPU.
        b: up-projection ``[d_out, rank]``, likewise.
        rank: the r of this module.
        scaling: alpha / r, or alpha / sqrt(r) for rsLoRA.
    """

    name: str
    layer: int
    projection: str
    a: Tensor = field(repr=False)
    b: Tensor = field(repr=False)
    rank: int
    scaling: float


@dataclass(frozen=True, eq=False)
class Adapter:
    """A checked LoRA adapter. Everything in it is what PEFT would compute with.

    Attributes:
        path: folder that it was read from; not part of its identity.
        base_model: name of the base model as the config states it, or None.
        rank: largest rank of its modules.
        modules: low-rank pairs by name of their linear layer.
        digest: SHA-256 (hex) of the tensors and of what scales them; identity of the adapter.
        a_digests: SHA-256 (hex) of the down-projections of each projection over all layers.
        slot_digest: the same over the cached projections together: what an LR slot holds. None
            when the adapter has no cached term, as aLoRA adapters have none.
        cached_projections: which of ``k_proj``, ``v_proj`` it adapts.
        is_alora: an aLoRA adapter (arXiv 2504.12397): it acts from its invocation tokens on, and
            what lies before them carries no term of it.
        acting_tokens: token ids at whose last occurrence in a prompt the adapter begins to act;
            the invocation tokens of an aLoRA adapter. None, or without them: at the prompt's last
            token; an aLoRA adapter does not act then. Only aLoRA adapters and the policy
            ``neutral`` look at it.
        trained_for: the sharing policy that the adapter was trained for; None when not stated.
        notes: remarks for the user, none of which stands in the way of serving.
        config: the parsed config, for checks that need the base model.
    """

    path: Path
    base_model: str | None
    rank: int
    modules: Mapping[str, LoraModule] = field(repr=False)
    digest: str
    a_digests: Mapping[str, str]
    slot_digest: str | None
    cached_projections: tuple[str, ...]
    is_alora: bool = False
    acting_tokens: tuple[int, ...] | None = None
    trained_for: str | None = None
    notes: tuple[str, ...] = ()
    config: AdapterConfig | None = field(default=None, repr=False)

    def rank_of(self, projection: str) -> int:
        """Largest rank among the modules of one projection; 0 when it has none."""
        ranks = (m.rank for m in self.modules.values() if m.projection == projection)
        return max(ranks, default=0)

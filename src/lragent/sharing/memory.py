"""Memory of a context that several adapters have read, under each policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lragent.cache.layout import PageLayout
from lragent.sharing.policies import Policy
from lragent.sharing.slots import Weights, can_share, plan_slots, slots_needed


@dataclass(frozen=True)
class KVSizes:
    """What a base model caches: layers, KV heads, elements of a head, and bytes of an element."""

    layers: int
    kv_heads: int
    head_dim: int
    itemsize: int


def bytes_by_policy(
    adapters: Sequence[Weights],
    sizes: KVSizes,
    tokens: int,
    v_rank: int,
    k_rank: int,
    page_size: int = 16,
) -> dict[Policy, int]:
    """Bytes of the whole pages that hold `tokens` tokens once each adapter has read them.

    Policies under which not all of the adapters can share are left out. A slot is as wide as the
    group's largest rank, or in vLLM as ``--max-lora-rank``: `v_rank`, and `k_rank` for LoRA on
    k_proj.
    """
    pages = tokens // page_size
    found = {}
    for policy in Policy:
        if not all(can_share(policy, adapter) for adapter in adapters):
            continue
        slots = slots_needed(plan_slots(policy, adapters)) if policy.has_slots else 0
        layout = PageLayout(
            page_size, sizes.kv_heads, sizes.head_dim, slots, v_rank, k_rank, sizes.itemsize
        )
        copies = 1 if policy.shares_base else len({adapter.digest for adapter in adapters})
        found[policy] = copies * pages * layout.page_bytes * sizes.layers
    return found

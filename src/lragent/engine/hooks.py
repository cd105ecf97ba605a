"""How the paged cache and Flash-LoRA-Attention enter a Hugging Face model.

Only public interfaces are used: an attention function registered by name, a cache class, and
linear layers exchanged for ones that hold the original.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from lragent.attention import Implementation, flash_lora_attention, write_pages
from lragent.attention.base import KeyRotation, LoraTables
from lragent.engine.families import ModelShape
from lragent.engine.kv_storage import KVStorage
from lragent.engine.lora_layers import CachedLinear, LoraLinear
from lragent.engine.packed_linear import pack, pack_head
from lragent.engine.step_context import StepContext

ATTENTION_NAME = "lragent"
CACHED = {"k_proj": "k", "v_proj": "v"}
_LAYER = re.compile(r"\.layers\.(\d+)\.")


class PagedLayer(CacheLayerMixin):
    """One layer's pages: new K and V are written where the step's slot mapping says."""

    def __init__(self, pages: PagedCache, layer: int):
        super().__init__()
        self._cache = pages
        self._layer = layer

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write `[1, kv_heads, T, head_dim]` to the pages and hand both back unchanged."""
        self._cache.write(self._layer, key_states, value_states)
        return key_states, value_states

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Pages are allocated when the engine starts."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Lengths for masks, which paged attention does not use."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Sequences differ in length; the step gives every position explicitly."""
        return 0

    def get_max_length(self) -> int:
        """The engine bounds lengths itself."""
        return -1


class PagedCache(Cache):
    """The cache object that the model's layers write to and the attention reads from."""

    def __init__(
        self,
        storage: KVStorage,
        context: StepContext,
        projections: Iterable[LoraLinear],
        attention: Implementation,
    ):
        super().__init__(layers=[PagedLayer(self, i) for i in range(storage.layers)])
        self.storage = storage
        self.context = context
        self.attention: Implementation = attention
        self.tables = [LoraTables(v_b=None, k_b=None) for _ in range(storage.layers)]
        self.rotation: KeyRotation | None = None
        cached = [module for module in projections if isinstance(module, CachedLinear)]
        self._projections = {(module.layer, module.kind): module for module in cached}

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store a layer's new rows: K, V_base, and the low-rank products left by its projections.

        `key`, `value`: `[1, kv_heads, T, head_dim]`.
        """
        step = self.context.step
        pages = self.storage.views[layer]
        lr = None
        if pages.lr is not None and step.lr_slots.shape[1]:
            lr = self._low_rank(layer, step.lr_slots.shape, key)
        write_pages(
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            lr,
            pages,
            step.slot_mapping,
            step.write_base,
            step.lr_slots,
            implementation=self.attention,
        )

    def _low_rank(self, layer: int, shape: torch.Size, like: Tensor) -> Tensor:
        layout = self.storage.layout
        parts = []
        for kind, rank in (("v", layout.v_rank), ("k", layout.k_rank)):
            if rank:
                z = self._projections[layer, kind].take_z()
                parts.append(like.new_zeros(*shape, rank) if z is None else z)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def attend(self, layer: int, query: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention of `query` `[T, query_heads, head_dim]` over the pages of `layer`."""
        tables = self.tables[layer]
        return flash_lora_attention(
            query,
            self.storage.views[layer],
            self.context.step.attention,
            tables,
            scale=scale,
            sliding_window=window,
            rotation=self.rotation if tables.k_b is not None else None,
            implementation=self.attention,
        )


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    paged_cache: PagedCache,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that the model calls; K and V are in the pages by now."""
    layer = module.layer_idx
    assert isinstance(layer, int)
    out = paged_cache.attend(layer, query[0].transpose(0, 1), scaling, sliding_window)
    return out.unsqueeze(0), None


def install(
    model: PreTrainedModel, shape: ModelShape, context: StepContext
) -> dict[str, LoraLinear]:
    """Register the attention and exchange the decoder's linear layers, in place.

    Returns the exchanged layers by their module path in the unhooked model.
    """
    AttentionInterface.register(ATTENTION_NAME, paged_attention)
    model.set_attn_implementation(ATTENTION_NAME)
    exchanged: dict[str, LoraLinear] = {}
    for path in shape.linear_shapes:
        if ".layers." not in path:
            continue
        linear = model.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        base = pack(linear)
        kind = CACHED.get(path.rpartition(".")[2])
        number = _LAYER.search(path)
        if number is not None and (kind == "k" or kind == "v"):
            layer: LoraLinear = CachedLinear(base, context, kind, int(number[1]))
        else:
            layer = LoraLinear(base, context)
        model.set_submodule(path, layer)
        exchanged[path] = layer
    pack_head(model)
    return exchanged

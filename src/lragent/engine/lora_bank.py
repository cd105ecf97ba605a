"""The weights of all adapters in use, stacked so that one product serves any mix of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lragent.adapters.model import Adapter
from lragent.attention.base import LoraTables
from lragent.cache.layout import PageLayout
from lragent.engine.hooks import PagedCache
from lragent.engine.lora_layers import CachedLinear, LoraLinear


class LoraBank:
    """Places adapter weights into the hooked layers and the attention's tables.

    Adapters are told apart by content digest: two names for the same weights are one entry.
    Column `c` of the stacked ranks belongs to adapter `owners[c]`; every adapter has as many
    columns in every layer (its largest rank, the rest zero), so that one mask serves all layers.
    """

    def __init__(
        self,
        layers: Mapping[str, LoraLinear],
        cache: PagedCache,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self._layers = layers
        self._cache = cache
        self._dtype = dtype
        self._device = device
        self._index: dict[str, int] = {}
        self._slot_rows: dict[str, int] = {}
        self.owners: Tensor = torch.empty(0, dtype=torch.int32, device=device)
        self.nbytes = 0

    def __contains__(self, adapter: Adapter) -> bool:
        return adapter.digest in self._index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def digests(self) -> frozenset[str]:
        """Content digests of the adapters in the tables."""
        return frozenset(self._index)

    def index(self, adapter: Adapter | None) -> int:
        """Row of `adapter` in the tables, -1 for the base model."""
        return -1 if adapter is None else self._index[adapter.digest]

    def slot_row(self, adapter: Adapter) -> int:
        """Row of the adapter's A in the tables that fill LR slots."""
        assert adapter.slot_digest is not None, "only adapters with a cached term fill slots"
        return self._slot_rows[adapter.slot_digest]

    def rebuild(self, adapters: Iterable[Adapter]) -> None:
        """Stack the weights of `adapters` anew and drop all others."""
        unique = list({adapter.digest: adapter for adapter in adapters}.values())
        slotted = {a.slot_digest: a for a in unique if a.slot_digest is not None}
        placed = {path: self._stack(path, unique) for path in self._layers}
        layout = self._cache.storage.layout
        slot_a: dict[str, Tensor | None] = {}
        for path, layer in self._layers.items():
            if isinstance(layer, CachedLinear):
                rank = layout.v_rank if layer.kind == "v" else layout.k_rank
                slot_a[path] = self._slot_table(path, list(slotted.values()), rank)
        tables = [self._tables(i, unique, layout) for i in range(self._cache.storage.layers)]
        owners = self._owners(unique)

        # No tensor is allocated from here on: the bank keeps all of the old or has all of the new.
        for path, layer in self._layers.items():
            layer.a, layer.b = placed[path]
            if isinstance(layer, CachedLinear):
                layer.slot_a = slot_a[path]
        self._cache.tables[:] = tables
        self._index = {adapter.digest: i for i, adapter in enumerate(unique)}
        self._slot_rows = {digest: i for i, digest in enumerate(slotted)}
        self.owners = owners
        tensors = [t for pair in placed.values() for t in pair]
        tensors += [*slot_a.values(), *(t for table in tables for t in (table.v_b, table.k_b))]
        self.nbytes = sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def _owners(self, adapters: Sequence[Adapter]) -> Tensor:
        """`[R]`, each column's adapter."""
        owners = [i for i, adapter in enumerate(adapters) for _ in range(adapter.rank)]
        return torch.tensor(owners, dtype=torch.int32, device=self._device)

    def _stack(self, path: str, adapters: Sequence[Adapter]) -> tuple[Tensor | None, Tensor | None]:
        """`(a [R, d_in], b [R, d_out])` of one layer; `(None, None)` when nobody targets it."""
        if not any(path in adapter.modules for adapter in adapters):
            return None, None
        base = self._layers[path].base
        total = sum(adapter.rank for adapter in adapters)
        a = torch.zeros(total, base.in_features, dtype=self._dtype)
        b = torch.zeros(total, base.out_features, dtype=self._dtype)
        start = 0
        for adapter in adapters:
            module = adapter.modules.get(path)
            if module is not None:
                rows = slice(start, start + module.rank)
                a[rows] = module.a.to(self._dtype)
                b[rows] = (module.b.float() * module.scaling).T.to(self._dtype)
            start += adapter.rank
        return a.to(self._device), b.to(self._device)

    def _slot_table(self, path: str, adapters: Sequence[Adapter], rank: int) -> Tensor | None:
        """`[n, rank, d_in]`, the distinct A of one cached projection."""
        if not rank or not adapters:
            return None
        table = torch.zeros(
            len(adapters), rank, self._layers[path].base.in_features, dtype=self._dtype
        )
        for row, adapter in enumerate(adapters):
            module = adapter.modules.get(path)
            if module is not None and module.rank <= rank:  # else it is folded and has no slot
                table[row, : module.rank] = module.a.to(self._dtype)
        return table.to(self._device)

    def _tables(self, layer: int, adapters: Sequence[Adapter], layout: PageLayout) -> LoraTables:
        return LoraTables(
            v_b=self._up(layer, "v_proj", adapters, layout.v_rank, layout),
            k_b=self._up(layer, "k_proj", adapters, layout.k_rank, layout),
        )

    def _up(
        self, layer: int, projection: str, adapters: Sequence[Adapter], rank: int,
        layout: PageLayout,
    ) -> Tensor | None:  # fmt: skip
        """`[A, rank, kv_heads * head_dim]`, B with the scaling folded in."""
        if not rank or not adapters:
            return None
        table = torch.zeros(
            len(adapters), rank, layout.kv_heads * layout.head_dim, dtype=self._dtype
        )
        for row, adapter in enumerate(adapters):
            for module in adapter.modules.values():
                if module.layer == layer and module.projection == projection:
                    if module.rank > rank:
                        continue  # belongs to a group that folds its term and has no slot
                    scaled = module.b.float() * module.scaling
                    table[row, : module.rank] = scaled.T.to(self._dtype)
        return table.to(self._device)

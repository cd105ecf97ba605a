"""A request's binding in vLLM's terms: hashes of its blocks, and rows that workers hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lragent.cache.client import CacheClient
from lragent.cache.keys import KeyScope
from lragent.sharing.bindings import BASE_MODEL, Binding
from lragent.vllm.core.adapters import Content
from lragent.vllm.core.rows import RowTable
from lragent.vllm.messages import OWN_ROW


@dataclass(frozen=True, eq=False)
class ServedBinding(Binding[Content]):
    """A binding whose requests vLLM serves.

    Attributes:
        scope: what all page keys of this engine have in common.
        rows: for each of ``fills``, the workers' row of its A, or ``OWN_ROW``.
    """

    scope: KeyScope
    rows: tuple[int, ...]

    @cached_property
    def cache_client(self) -> CacheClient:
        """The binding in the terms of `lragent.cache`."""
        return self.client(self.scope)

    @cached_property
    def keys(self) -> list[str]:
        """What enters vLLM's block hashes; nothing (stock hashes) for the base model on its own."""
        return [] if self.sharer == BASE_MODEL else [f"lragent:{self.cache_client.root.hex()}"]

    @property
    def row_digests(self) -> set[str | None]:
        """Slot digests of the rows that it needs."""
        written = zip(self.fills, self.rows, strict=True)
        return {fill.adapter.slot_digest for fill, row in written if row != OWN_ROW}


def serve(binding: Binding[Content], scope: KeyScope, table: RowTable) -> ServedBinding:
    """Give each filled slot its row; slots of others for which there is none stay empty."""
    rows = [
        OWN_ROW if fill.adapter is binding.adapter else table.row(fill.adapter)
        for fill in binding.fills
    ]
    served = [(fill, row) for fill, row in zip(binding.fills, rows, strict=True) if row is not None]
    return ServedBinding(
        name=binding.name,
        adapter=binding.adapter,
        policy=binding.policy,
        sharer=binding.sharer,
        slot=binding.slot,
        fills=tuple(fill for fill, _ in served),
        scope=scope,
        rows=tuple(row for _, row in served),
    )

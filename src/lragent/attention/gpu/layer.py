"""What the attention kernels read: of a layer, and of a batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews


class Layer(NamedTuple):
    """What attention reads of one layer, besides the queries.

    Attributes:
        k: ``[P, Hk, N, D]`` keys.
        v: ``[P, Hk, N, D]`` base values.
        lr: ``[P, N, M, W]`` LR rows, or None.
        v_b: ``[A, Rv, Hk*D]``, or None.
        k_b: ``[A, Rk, Hk*D]``, or None.
        cos: ``[positions, D]`` fp32, or None.
        sin: ``[positions, D]`` fp32, or None.
    """

    k: Tensor
    v: Tensor
    lr: Tensor | None
    v_b: Tensor | None
    k_b: Tensor | None
    cos: Tensor | None
    sin: Tensor | None

    @classmethod
    def of(cls, pages: PageViews, tables: LoraTables, rotation: KeyRotation | None) -> Layer:
        """From what the public functions take."""
        cos, sin = (None, None) if rotation is None else (rotation.cos, rotation.sin)
        return cls(pages.k, pages.v, pages.lr, tables.v_b, tables.k_b, cos, sin)

    @property
    def v_rank(self) -> int:
        """Rank that values are read with, 0 without LR rows."""
        return 0 if self.v_b is None or self.lr is None else self.v_b.shape[1]

    @property
    def k_rank(self) -> int:
        """Rank that keys are completed with, 0 without LR rows."""
        return 0 if self.k_b is None or self.lr is None else self.k_b.shape[1]


class Sequences(NamedTuple):
    """What attention reads of a batch, besides where each sequence's queries are.

    Attributes:
        block_tables: ``[S, max_pages]`` int32.
        seq_lens: ``[S]`` int32.
        adapter_index: ``[S]`` int32.
        lr_slot: ``[S]`` int32.
    """

    block_tables: Tensor
    seq_lens: Tensor
    adapter_index: Tensor
    lr_slot: Tensor

    @classmethod
    def of(cls, batch: AttentionBatch, part: slice = slice(None)) -> Sequences:
        """Some of a batch's sequences."""
        return cls(
            batch.block_tables[part],
            batch.seq_lens[part],
            batch.adapter_index[part],
            batch.lr_slot[part],
        )


def present(layer: Layer) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """LR rows, B of values and of keys, cos and sin.

    K stands in for a missing one, which the kernel then never reads.
    """
    k = layer.k
    lora = layer.lr is not None
    lr = layer.lr if layer.lr is not None else k
    v_b = layer.v_b if lora and layer.v_b is not None else k
    k_b = layer.k_b if lora and layer.k_b is not None else k
    cos = layer.cos if layer.k_rank and layer.cos is not None else k
    sin = layer.sin if layer.k_rank and layer.sin is not None else k
    return lr, v_b, k_b, cos, sin

"""Value types of paged Flash-LoRA-Attention: page views, batch, adapter tables, key rotation.

Every implementation (reference, torch, triton) takes exactly these types, so that they can be
exchanged and compared. Symbols follow the paper: K and V are the base cache, ``z = x A`` is the
low-rank (LR) cache, ``B`` the up-projection with the LoRA scaling folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lragent.cache.layout import PageLayout

_P = ParamSpec("_P")
_T = TypeVar("_T")


class UnsupportedError(RuntimeError):
    """An implementation cannot do what is asked; raised before anything has been written.

    An automatic choice falls back to the next implementation, an explicit choice lets it through.
    """


@dataclass(frozen=True)
class PageViews:
    """The three blocks of one layer's pages, as strided views or as separate tensors.

    Attributes:
        k: ``[P, Hk, N, D]``, keys after RoPE without any adapter term; rows (last dim) contiguous.
        v: ``[P, Hk, N, D]``, base values ``x W_v``.
        lr: ``[P, N, M, W]``, the LR rows ``x A`` of M slots, or None when there are none. The first
            columns of a slot belong to the values, the next ones to the keys.
    """

    k: Tensor
    v: Tensor
    lr: Tensor | None = None

    @property
    def num_pages(self) -> int:
        """P, the number of pages."""
        return self.k.shape[0]

    @property
    def kv_heads(self) -> int:
        """Hk, the number of key/value heads."""
        return self.k.shape[1]

    @property
    def page_size(self) -> int:
        """N, the tokens in one page."""
        return self.k.shape[2]

    @property
    def head_dim(self) -> int:
        """D, the width of one head."""
        return self.k.shape[3]


def page_views(pages: Tensor, layout: PageLayout) -> PageViews:
    """Views of the K, V_base and LR blocks in one layer's page tensor; nothing is copied.

    Args:
        pages: ``[P, layout.page_elements]``, rows contiguous; rows may be further apart.
        layout: where the blocks of a page lie, in elements.

    Raises:
        ValueError: the rows of ``pages`` are not pages of this layout.
    """
    if pages.dim() != 2 or pages.shape[1] != layout.page_elements or pages.stride(1) != 1:
        raise ValueError(
            f"pages must be [P, {layout.page_elements}] with contiguous rows, "
            f"got shape {tuple(pages.shape)} and strides {pages.stride()}"
        )
    count, step, start = pages.shape[0], pages.stride(0), pages.storage_offset()
    heads, tokens, width = layout.kv_heads, layout.page_size, layout.head_dim
    base_shape, base_stride = (count, heads, tokens, width), (step, tokens * width, width, 1)
    k = pages.as_strided(base_shape, base_stride, start + layout.k_offset)
    v = pages.as_strided(base_shape, base_stride, start + layout.v_offset)
    lr = None
    if layout.slots and layout.lr_width:
        row = layout.slots * layout.lr_width
        lr = pages.as_strided(
            (count, tokens, layout.slots, layout.lr_width),
            (step, row, layout.lr_width, 1),
            start + layout.lr_offset,
        )
    return PageViews(k, v, lr)


@dataclass(frozen=True)
class LoraTables:
    """Up-projections of one layer, one row an adapter, with the LoRA scaling folded in.

    Rows above an adapter's own rank are zero. The value part of an LR slot is its columns
    ``[0:Rv]``, the key part ``[Rv:Rv+Rk]``, with Rv = 0 when ``v_b`` is None.

    Attributes:
        v_b: ``[A, Rv, Hk*D]`` for v_proj, or None.
        k_b: ``[A, Rk, Hk*D]`` for k_proj, or None.
    """

    v_b: Tensor | None = None
    k_b: Tensor | None = None

    @property
    def v_rank(self) -> int:
        """Rv, the columns of an LR slot that belong to the values."""
        return 0 if self.v_b is None else self.v_b.shape[1]

    @property
    def k_rank(self) -> int:
        """Rk, the columns of an LR slot that belong to the keys."""
        return 0 if self.k_b is None else self.k_b.shape[1]


@dataclass(frozen=True)
class KeyRotation:
    """RoPE tables for the key term, in the ``rotate_half`` convention of transformers.

    Attributes:
        cos: ``[max_pos, D]`` fp32, row = absolute position; any attention factor is folded in.
        sin: ``[max_pos, D]`` fp32.
    """

    cos: Tensor
    sin: Tensor


@dataclass
class AttentionBatch:
    """Which sequences a packed query tensor holds and where their cached tokens lie.

    The first seven fields are for kernels, the ``host_*`` copies spare other code a device
    synchronisation. One batch serves every layer of a step.

    Attributes:
        block_tables: ``[S, max_pages]`` int32, page ids in token order; entries beyond a
            sequence's pages are 0, and no page is read through them.
        cu_seqlens_q: ``[S+1]`` int32, where each sequence's queries start in the packed tensor.
        seq_lens: ``[S]`` int32, tokens of context including the new ones.
        adapter_index: ``[S]`` int32, row of the LoRA tables, -1 for none.
        lr_slot: ``[S]`` int32, the slot that the sequence reads, -1 for none.
        max_query: most queries of one sequence.
        max_seq: longest context.
        whole: of a batch in which some request is two sequences, its context, which reads no LR
            slot, and its turn: the same queries with each request as one sequence, without
            adapters. An implementation may compute contexts there, where they are neighbours, and
            the sequences that read a slot afterwards. Else None.
    """

    block_tables: Tensor
    cu_seqlens_q: Tensor
    seq_lens: Tensor
    adapter_index: Tensor
    lr_slot: Tensor
    max_query: int
    max_seq: int
    host_block_tables: list[list[int]]
    host_cu_seqlens_q: list[int]
    host_seq_lens: list[int]
    host_adapter_index: list[int]
    host_lr_slot: list[int]
    whole: AttentionBatch | None = None
    _derived: dict[Hashable, object] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def build(
        cls,
        block_tables: Sequence[Sequence[int]],
        query_lens: Sequence[int],
        seq_lens: Sequence[int],
        adapter_index: Sequence[int] | None = None,
        lr_slot: Sequence[int] | None = None,
        *,
        device: torch.device | str = "cpu",
        max_pages: int | None = None,
    ) -> AttentionBatch:
        """Build a batch from one entry a sequence.

        Args:
            block_tables: page ids of each sequence, in token order.
            query_lens: new tokens of each sequence (0 is allowed).
            seq_lens: context length of each sequence, its new tokens included.
            adapter_index: row in the LoRA tables or -1; default: no adapters.
            lr_slot: LR slot that the sequence reads or -1; default: none.
            device: where the tensors go.
            max_pages: width of the block table tensor; default: the longest block table.

        Raises:
            ValueError: the lists differ in length, a sequence has more queries than tokens, or a
                block table is longer than ``max_pages``.
        """
        count = len(block_tables)
        adapter_index = [-1] * count if adapter_index is None else adapter_index
        lr_slot = [-1] * count if lr_slot is None else lr_slot
        lists = {
            "query_lens": query_lens,
            "seq_lens": seq_lens,
            "adapter_index": adapter_index,
            "lr_slot": lr_slot,
        }
        for name, values in lists.items():
            if len(values) != count:
                raise ValueError(f"{count} block tables but {len(values)} {name}")
        starts = [0]
        for index, (new, total) in enumerate(zip(query_lens, seq_lens, strict=True)):
            if not 0 <= new <= total:
                raise ValueError(f"sequence {index} has {new} queries in {total} tokens")
            starts.append(starts[-1] + new)
        widest = max((len(table) for table in block_tables), default=0)
        width = widest if max_pages is None else max_pages
        if widest > width:
            raise ValueError(f"a block table has {widest} pages, more than max_pages={width}")
        tables = [list(table) for table in block_tables]
        padded = [table + [0] * (width - len(table)) for table in tables]

        def on_device(values: Sequence[Any]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32).to(device)

        return cls(
            block_tables=on_device(padded).view(count, width),
            cu_seqlens_q=on_device(starts),
            seq_lens=on_device(list(seq_lens)),
            adapter_index=on_device(list(adapter_index)),
            lr_slot=on_device(list(lr_slot)),
            max_query=max(query_lens, default=0),
            max_seq=max(seq_lens, default=0),
            host_block_tables=tables,
            host_cu_seqlens_q=starts,
            host_seq_lens=list(seq_lens),
            host_adapter_index=list(adapter_index),
            host_lr_slot=list(lr_slot),
        )

    def once(
        self, derive: Callable[_P, _T], key: Hashable, *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """``derive(*args, **kwargs)``, called once for each key and reused in every layer.

        Args:
            derive: a module's function or class; two of them never share a result.
            key: what the result depends on besides this batch, its tensors' sizes for instance.
            args: what ``derive`` is called with the first time.
            kwargs: the same by name.
        """
        entry = (derive, key)
        if entry not in self._derived:
            self._derived[entry] = derive(*args, **kwargs)
        return cast("_T", self._derived[entry])

    @property
    def num_sequences(self) -> int:
        """S, the sequences in the batch."""
        return len(self.host_seq_lens)

    @property
    def num_queries(self) -> int:
        """T, the packed queries of all sequences."""
        return self.host_cu_seqlens_q[-1]

    def uses_lora(self, sequence: int) -> bool:
        """Whether the sequence reads an LR slot: it has an adapter, and the adapter a slot."""
        return self.host_adapter_index[sequence] >= 0 and self.host_lr_slot[sequence] >= 0

"""The kernels as PyTorch operators ``torch.ops.lragent.*``, with fake versions for torch.compile.

The attention operators write into ``out``; sizes that follow from the batch are plain integers, so
a compiled graph holds for every batch. An operator never synchronises with the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.triton import fa3
from lragent.attention.triton.launch import (
    Cache,
    launch_attend,
    launch_dense,
    launch_expand,
    launch_project,
)
from lragent.attention.triton.workspace import buffer
from lragent.attention.triton.write import launch_write

_LAYER = (
    "Tensor k, Tensor v, Tensor? lr, Tensor? v_b, Tensor? k_b, Tensor? cos, Tensor? sin,"
    " Tensor block_tables, Tensor seq_lens, Tensor adapter_index, Tensor lr_slot"
)
_library = torch.library.Library("lragent", "FRAGMENT")
_library.define(
    f"attend(Tensor q, Tensor(a!) out, Tensor cu_seqlens_q, {_LAYER}, float scale, SymInt window,"
    " SymInt max_seq, bool decode, SymInt min_query, SymInt max_query) -> ()"
)
_library.define(
    f"attend_expanded(Tensor q, Tensor(a!) out, Tensor cu_seqlens_q, {_LAYER}, float scale,"
    " SymInt window, Tensor cu_seqlens_k, SymInt max_query, SymInt max_seq, SymInt context,"
    " Tensor? work) -> ()"
)
_library.define(
    "write_pages(Tensor k, Tensor v, Tensor? lr, Tensor(a!) k_pages, Tensor(b!) v_pages,"
    " Tensor(c!)? lr_pages, Tensor slot_mapping, Tensor write_base, Tensor lr_slots) -> ()"
)
_library.define("project_lr(Tensor x, Tensor a, Tensor index) -> Tensor")


def scratch(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The shared buffer for expanded K and V; see `workspace.buffer`."""
    return buffer("expanded", size, dtype, device)


def _attend(
    q: Tensor,
    out: Tensor,
    cu_seqlens_q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor | None,
    v_b: Tensor | None,
    k_b: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    block_tables: Tensor,
    seq_lens: Tensor,
    adapter_index: Tensor,
    lr_slot: Tensor,
    scale: float,
    window: int,
    max_seq: int,
    decode: bool,
    min_query: int,
    max_query: int,
) -> None:
    layer = Cache(
        k, v, lr, v_b, k_b, cos, sin, block_tables, seq_lens, adapter_index, lr_slot
    )  # fmt: skip
    launch_attend(q, out, cu_seqlens_q, layer, scale, window, max_seq, decode, min_query, max_query)


def _attend_expanded(
    q: Tensor,
    out: Tensor,
    cu_seqlens_q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor | None,
    v_b: Tensor | None,
    k_b: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    block_tables: Tensor,
    seq_lens: Tensor,
    adapter_index: Tensor,
    lr_slot: Tensor,
    scale: float,
    window: int,
    cu_seqlens_k: Tensor,
    max_query: int,
    max_seq: int,
    context: int,
    work: Tensor | None,
) -> None:
    layer = Cache(
        k, v, lr, v_b, k_b, cos, sin, block_tables, seq_lens, adapter_index, lr_slot
    )  # fmt: skip
    heads, width = k.shape[1], k.shape[3]
    expanded = scratch(2 * context * heads * width, q.dtype, q.device)
    full_k, full_v = expanded.view(2, context, heads, width)
    launch_expand(full_k, full_v, cu_seqlens_k, layer)
    found = fa3.find(q.device)
    if found is None:
        launch_dense(q, out, full_k, full_v, cu_seqlens_q, cu_seqlens_k, scale, window)
        return
    fa3.attend(
        found, q, full_k, full_v, out, cu_seqlens_q, cu_seqlens_k, max_query, max_seq, scale,
        window, work,
    )  # fmt: skip


def _project(x: Tensor, a: Tensor, index: Tensor) -> Tensor:
    out = x.new_empty(*index.shape, a.shape[1])
    launch_project(x, a, index, out)
    return out


def _fake_project(x: Tensor, a: Tensor, index: Tensor) -> Tensor:
    return x.new_empty(*index.shape, a.shape[1])


def _writes_only(*_: object) -> None:
    """Fake version of an operator that only writes into its arguments."""


for _name, _real in (
    ("attend", _attend),
    ("attend_expanded", _attend_expanded),
    ("write_pages", launch_write),
):
    _library.impl(_name, _real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lragent::{_name}", _writes_only, lib=_library)
_library.impl("project_lr", _project, "CompositeExplicitAutograd")
torch.library.register_fake("lragent::project_lr", _fake_project, lib=_library)

attend = torch.ops.lragent.attend.default
attend_expanded = torch.ops.lragent.attend_expanded.default
write_pages = torch.ops.lragent.write_pages.default
project_lr = torch.ops.lragent.project_lr.default

"""The kernels as PyTorch operators ``torch.ops.lragent.*``, with fake versions for torch.compile.

The attention operators write into ``out``; sizes that follow from the batch are plain integers, so
a compiled graph holds for every batch. An operator never synchronises with the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.triton.calls import expanded
from lragent.attention.triton.launch import prepare_attend
from lragent.attention.triton.launch_project import launch_project
from lragent.attention.triton.layer import Layer, Sequences
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
    " Tensor(c!)? lr_pages, Tensor slot_mapping, Tensor write_base, Tensor lr_rows,"
    " Tensor lr_slots) -> ()"
)
_library.define("project_lr(Tensor x, Tensor a, Tensor index) -> Tensor")


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
    layer = Layer(k, v, lr, v_b, k_b, cos, sin)
    sequences = Sequences(block_tables, seq_lens, adapter_index, lr_slot)
    call = prepare_attend(
        q, out, cu_seqlens_q, layer, sequences, scale, window, max_seq, decode, min_query, max_query
    )
    if call is not None:
        call(q, out, layer)


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
    layer = Layer(k, v, lr, v_b, k_b, cos, sin)
    call = expanded(
        q, layer, Sequences(block_tables, seq_lens, adapter_index, lr_slot),
        cu_seqlens_q, cu_seqlens_k, max_query, max_seq, context, scale, window, work,
    )  # fmt: skip
    call(q, out, layer)


def _project(x: Tensor, a: Tensor, index: Tensor) -> Tensor:
    out = x.new_empty(x.shape[0], *a.shape[:2])
    launch_project(x, a, index, out)
    return out


def _fake_project(x: Tensor, a: Tensor, index: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], *a.shape[:2])


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

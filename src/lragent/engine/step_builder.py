"""From scheduled requests to the tensors of one packed step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch
from lragent.engine.lora_bank import LoraBank
from lragent.engine.scheduler import Scheduled
from lragent.engine.step_context import Step


class Row(NamedTuple):
    """Consecutive tokens of a request that pass through the model alike: one row of the batch.

    Attributes:
        item: what was scheduled of the request.
        positions: of its tokens in the request.
        adapter: index of the adapter in the tables, -1 for none.
        slot: LR slot that its queries read, -1 for none.
        fills: `(slot, slot digest)` of the slots that it writes.
    """

    item: Scheduled
    positions: range
    adapter: int
    slot: int
    fills: tuple[tuple[int, str], ...]


def rows_of(plan: Sequence[Scheduled], bank: LoraBank) -> list[Row]:
    """The rows of a step: context without an adapter, and what the adapter computes.

    A chunk that crosses from one to the other is two rows over one block table.
    """
    rows = []
    for item in plan:
        binding, stop = item.request.binding, item.start + item.count
        context = item.request.context_tokens
        cut = stop if context is None else min(max(context, item.start), stop)
        if item.start < cut:
            fills = binding.context_fills or ()
            rows.append(Row(item, range(item.start, cut), -1, -1, fills))
        if cut < stop:
            adapter, slot = bank.index(binding.adapter), binding.slot
            slot = -1 if slot is None else slot
            rows.append(Row(item, range(cut, stop), adapter, slot, binding.fills))
    return rows


def build_step(
    plan: Sequence[Scheduled],
    bank: LoraBank,
    page_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Step:
    """Pack the scheduled tokens one after another and say where each is read and written."""

    def on_device(values: Sequence[object], kind: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=kind).to(device, non_blocking=True)

    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    base: list[bool] = []
    token_adapter: list[int] = []
    token_fold: list[int] = []
    logit_rows: list[int] = []
    rows = rows_of(plan, bank)
    width = max((len(row.fills) for row in rows), default=0)
    lr_rows: list[list[int]] = []
    lr_slots: list[list[int]] = []
    for row in rows:
        request, span = row.item.request, row.positions
        lease = request.lease
        assert lease is not None
        tokens += request.tokens[span.start : span.stop]
        positions += span
        slots += [lease.pages[p // page_size] * page_size + p % page_size for p in span]
        base += [p >= lease.base_tokens for p in span]
        token_adapter += [row.adapter] * len(span)
        token_fold += [row.adapter if request.binding.folds else -1] * len(span)
        own = [fill for fill in row.fills if fill[0] == request.binding.slot]
        # of pages that others read too only the own slot is written, and only if it is empty
        for fills, first, last in (
            ((), 0, lease.lr_tokens),
            (own, lease.lr_tokens, lease.base_tokens),
            (row.fills, lease.base_tokens, span.stop),
        ):
            count = max(0, min(last, span.stop) - max(first, span.start))
            padding = [-1] * (width - len(fills))
            lr_rows += [[bank.slot_row(digest) for _, digest in fills] + padding] * count
            lr_slots += [[slot for slot, _ in fills] + padding] * count
        if row.item.samples and span.stop == len(request.tokens):
            logit_rows.append(len(tokens) - 1)

    if all(place < 0 for row in lr_slots for place in row):
        width, lr_rows, lr_slots = 0, [], []
    return Step(
        input_ids=on_device(tokens)[None],
        positions=on_device(positions)[None],
        attention=_attention_batch(rows, device),
        slot_mapping=on_device(slots),
        write_base=on_device(base, torch.bool),
        base_rows=None if all(base) else on_device([i for i, w in enumerate(base) if w]),
        lr_rows=on_device(lr_rows, torch.int32).view(len(tokens), width),
        lr_slots=on_device(lr_slots, torch.int32).view(len(tokens), width),
        lora_mask=_mask(token_adapter, bank, dtype, device),
        fold_mask=_mask(token_fold, bank, dtype, device),
        logit_rows=on_device(logit_rows),
    )


def _attention_batch(rows: Sequence[Row], device: torch.device) -> AttentionBatch:
    leases = [row.item.request.lease for row in rows]
    return AttentionBatch.build(
        block_tables=[lease.pages for lease in leases if lease is not None],
        query_lens=[len(row.positions) for row in rows],
        seq_lens=[row.positions.stop for row in rows],
        adapter_index=[row.adapter for row in rows],
        lr_slot=[row.slot for row in rows],
        device=device,
    )


def _mask(
    token_adapter: Sequence[int], bank: LoraBank, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """`[T, R]`, 1 where the column's owner is the token's adapter."""
    if not len(bank) or all(index < 0 for index in token_adapter):
        return None
    owners = torch.tensor(token_adapter, dtype=torch.int32).to(device, non_blocking=True)
    return (owners[:, None] == bank.owners[None, :]).to(dtype)

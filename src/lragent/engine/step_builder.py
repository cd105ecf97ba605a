"""From scheduled requests to the tensors of one packed step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch
from lragent.engine.lora_bank import LoraBank
from lragent.engine.request_state import RequestState
from lragent.engine.scheduler import Scheduled
from lragent.engine.step_context import Step


class Row(NamedTuple):
    """Consecutive tokens of a request that pass through the model alike: one row of the batch.

    Attributes:
        request: whose tokens they are.
        span: their positions.
        adapter: index of the adapter in the tables, -1 for none.
        slot: LR slot that their queries read, -1 for none.
        own_slot_only: they write no other LR slot than that.
    """

    request: RequestState
    span: range
    adapter: int
    slot: int
    own_slot_only: bool


def rows_of(item: Scheduled, bank: LoraBank) -> list[Row]:
    """The context, without an adapter, and what the adapter computes, as far as scheduled.

    A chunk that crosses from one to the other is two rows over one block table.
    """
    request, binding, stop = item.request, item.request.binding, item.start + item.count
    context = request.context_tokens
    cut = stop if context is None else min(max(context, item.start), stop)
    rows = []
    if item.start < cut:
        rows.append(Row(request, range(item.start, cut), -1, -1, False))
    if cut < stop:
        adapter = bank.index(binding.adapter)
        slot = -1 if binding.slot is None else binding.slot
        span = range(cut, stop)
        rows.append(Row(request, span, adapter, slot, binding.base_reads))
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
    rows = [row for item in plan for row in rows_of(item, bank)]
    width = max((len(row.request.binding.fills) for row in rows), default=0)
    lr_rows: list[list[int]] = []
    lr_slots: list[list[int]] = []
    for row in rows:
        request, span = row.request, row.span
        lease = request.lease
        assert lease is not None
        tokens += request.tokens[span.start : span.stop]
        positions += span
        slots += [lease.pages[p // page_size] * page_size + p % page_size for p in span]
        base += [p >= lease.base_tokens for p in span]
        token_adapter += [row.adapter] * len(span)
        token_fold += [row.adapter if request.binding.folds else -1] * len(span)
        fills = list(zip(request.binding.fills, lease.fill_from, strict=True))
        if row.own_slot_only:
            fills = [(fill, first) for fill, first in fills if fill.slot == row.slot]
        begins = [first for _, first in fills if first in span]
        for start, stop in pairwise(sorted({span.start, *begins, span.stop})):
            fresh = [fill for fill, first in fills if start >= first]
            padding = [-1] * (width - len(fresh))
            lr_rows += [[*(bank.slot_row(f.adapter) for f in fresh), *padding]] * (stop - start)
            lr_slots += [[*(fill.slot for fill in fresh), *padding]] * (stop - start)

    first = 0  # of the item's tokens
    for item in plan:
        logit_rows += [first + p - item.start for p in item.prompt_positions]
        first += item.count
        if item.samples:
            logit_rows.append(first - 1)
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
    return AttentionBatch.build(
        block_tables=[_pages(row.request) for row in rows],
        query_lens=[len(row.span) for row in rows],
        seq_lens=[row.span.stop for row in rows],
        adapter_index=[row.adapter for row in rows],
        lr_slot=[row.slot for row in rows],
        device=device,
    )


def _pages(request: RequestState) -> Sequence[int]:
    assert request.lease is not None
    return request.lease.pages


def _mask(
    token_adapter: Sequence[int], bank: LoraBank, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """`[T, R]`, 1 where the column's owner is the token's adapter."""
    if not len(bank) or all(index < 0 for index in token_adapter):
        return None
    owners = torch.tensor(token_adapter, dtype=torch.int32).to(device, non_blocking=True)
    return (owners[:, None] == bank.owners[None, :]).to(dtype)

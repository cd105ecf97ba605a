"""From scheduled requests to the tensors of one packed step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch
from lragent.engine.lora_bank import LoraBank
from lragent.engine.request_state import RequestState
from lragent.engine.scheduler import Scheduled
from lragent.engine.step_context import Step


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
    width = max((len(s.request.binding.fills) for s in plan), default=0)
    lr_rows: list[list[int]] = []
    lr_slots: list[list[int]] = []
    for item in plan:
        request, binding = item.request, item.request.binding
        lease = request.lease
        assert lease is not None
        span = range(item.start, item.start + item.count)
        tokens += request.tokens[item.start : item.start + item.count]
        positions += span
        slots += [lease.pages[p // page_size] * page_size + p % page_size for p in span]
        base += [p >= lease.base_tokens for p in span]
        adapter = bank.index(binding.adapter)
        token_adapter += [adapter] * item.count
        token_fold += [adapter if binding.folds else -1] * item.count
        rows = [bank.slot_row(fill.adapter) for fill in binding.fills]
        places = [fill.slot for fill in binding.fills]
        padding = [-1] * (width - len(rows))
        for p in span:
            fresh = [p >= first for first in lease.fill_from]
            lr_rows.append([r if f else -1 for r, f in zip(rows, fresh, strict=True)] + padding)
            lr_slots.append([s if f else -1 for s, f in zip(places, fresh, strict=True)] + padding)
        if item.samples:
            logit_rows.append(len(tokens) - 1)

    if all(place < 0 for row in lr_slots for place in row):
        width, lr_rows, lr_slots = 0, [], []
    return Step(
        input_ids=on_device(tokens)[None],
        positions=on_device(positions)[None],
        attention=_attention_batch(plan, bank, device),
        slot_mapping=on_device(slots),
        write_base=on_device(base, torch.bool),
        base_rows=None if all(base) else on_device([i for i, w in enumerate(base) if w]),
        lr_rows=on_device(lr_rows, torch.int32).view(len(tokens), width),
        lr_slots=on_device(lr_slots, torch.int32).view(len(tokens), width),
        lora_mask=_mask(token_adapter, bank, dtype, device),
        fold_mask=_mask(token_fold, bank, dtype, device),
        logit_rows=on_device(logit_rows),
    )


def _attention_batch(
    plan: Sequence[Scheduled], bank: LoraBank, device: torch.device
) -> AttentionBatch:
    requests = [item.request for item in plan]
    return AttentionBatch.build(
        block_tables=[_pages(request) for request in requests],
        query_lens=[item.count for item in plan],
        seq_lens=[item.start + item.count for item in plan],
        adapter_index=[bank.index(r.binding.adapter) for r in requests],
        lr_slot=[-1 if r.binding.slot is None else r.binding.slot for r in requests],
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

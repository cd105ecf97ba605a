"""Writing new tokens into their pages: K, V_base and LR slots by slot mapping."""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.base import PageViews

FEW_TOKENS = 4
"""Up to so many tokens, plain stores cost less than working out indices."""


def write_pages_reference(
    k: Tensor,
    v: Tensor,
    lr: Tensor | None,
    pages: PageViews,
    slot_mapping: Tensor,
    write_base: Tensor,
    lr_rows: Tensor,
    lr_slots: Tensor,
) -> None:
    """`lragent.attention.write_pages`, token by token."""
    for token, place in enumerate(slot_mapping.tolist()):
        if place < 0:
            continue
        page, row = divmod(place, pages.page_size)
        if write_base[token]:
            pages.k[page, :, row] = k[token].to(pages.k.dtype)
            pages.v[page, :, row] = v[token].to(pages.v.dtype)
        if lr is None or pages.lr is None:
            continue
        for source, slot in zip(lr_rows[token].tolist(), lr_slots[token].tolist(), strict=True):
            if slot >= 0:
                z = lr[token, source] if source >= 0 else torch.zeros_like(lr[token, 0])
                pages.lr[page, row, slot] = z.to(pages.lr.dtype)


def write_pages_torch(
    k: Tensor,
    v: Tensor,
    lr: Tensor | None,
    pages: PageViews,
    slot_mapping: Tensor,
    write_base: Tensor,
    lr_rows: Tensor,
    lr_slots: Tensor,
) -> None:
    """`lragent.attention.write_pages` by indexed stores."""
    if slot_mapping.numel() <= FEW_TOKENS:
        write_pages_reference(k, v, lr, pages, slot_mapping, write_base, lr_rows, lr_slots)
        return
    size = pages.page_size
    written = slot_mapping >= 0
    tokens = (written & write_base).nonzero().squeeze(1)
    if tokens.numel():
        place = slot_mapping[tokens]
        index = (place // size, slice(None), place % size)
        pages.k[index] = k[tokens].to(pages.k.dtype)
        pages.v[index] = v[tokens].to(pages.v.dtype)
    if lr is None or pages.lr is None:
        return
    tokens, columns = (written[:, None] & (lr_slots >= 0)).nonzero(as_tuple=True)
    if tokens.numel():
        place = slot_mapping[tokens]
        slots, sources = (x[tokens, columns].to(torch.int64) for x in (lr_slots, lr_rows))
        rows = lr[tokens, sources].masked_fill_((sources < 0)[:, None], 0)
        pages.lr[place // size, place % size, slots] = rows.to(pages.lr.dtype)

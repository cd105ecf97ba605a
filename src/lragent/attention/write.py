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
        for column, slot in enumerate(lr_slots[token].tolist()):
            if slot >= 0:
                pages.lr[page, row, slot] = lr[token, column].to(pages.lr.dtype)


def write_pages_torch(
    k: Tensor,
    v: Tensor,
    lr: Tensor | None,
    pages: PageViews,
    slot_mapping: Tensor,
    write_base: Tensor,
    lr_slots: Tensor,
) -> None:
    """`lragent.attention.write_pages` by indexed stores."""
    if slot_mapping.numel() <= FEW_TOKENS:
        write_pages_reference(k, v, lr, pages, slot_mapping, write_base, lr_slots)
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
        slots = lr_slots[tokens, columns].to(torch.int64)
        pages.lr[place // size, place % size, slots] = lr[tokens, columns].to(pages.lr.dtype)

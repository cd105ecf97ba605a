"""Filling the cache in plain torch: writing new tokens into their pages, and the LR projection."""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.base import PageViews
from lragent.attention.naive import NaiveBackend

FEW_TOKENS = 4
"""Up to so many tokens, plain stores cost less than working out indices."""


def write(
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
        NaiveBackend().write(k, v, lr, pages, slot_mapping, write_base, lr_rows, lr_slots)
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


def project(x: Tensor, a: Tensor, index: Tensor) -> Tensor:
    """`lragent.attention.project_lr`, one matrix product for each A that occurs.

    Mostly all tokens of a step need the same A; then nothing has to be picked out.
    """
    rows = index[0].tolist() if len(index) else []
    if rows and min(rows) >= 0 and (len(index) == 1 or bool((index == index[:1]).all())):
        if a.shape[0] == 1:
            return torch.nn.functional.linear(x, a[0].to(x.dtype)).unsqueeze(1)
        out = x.new_zeros(x.shape[0], *a.shape[:2])
        for row in set(rows):
            out[:, row] = torch.nn.functional.linear(x, a[row].to(x.dtype))
        return out
    out = x.new_zeros(x.shape[0], *a.shape[:2])
    for row in index.unique().tolist():
        if row < 0:
            continue
        tokens = (index == row).any(1).nonzero().squeeze(1)
        out[tokens, row] = torch.nn.functional.linear(x[tokens], a[row].to(x.dtype))
    return out

"""The LR projection ``z = x A`` for one or several slots of each token."""

from __future__ import annotations

import torch
from torch import Tensor


def project_lr_reference(x: Tensor, a: Tensor, index: Tensor) -> Tensor:
    """`lragent.attention.project_lr`, token by token in float64; zeros where nobody asks."""
    out = x.new_zeros(x.shape[0], *a.shape[:2])
    for token, rows in enumerate(index.tolist()):
        for row in rows:
            if row >= 0:
                out[token, row] = (a[row].double() @ x[token].double()).to(x.dtype)
    return out


def project_lr_torch(x: Tensor, a: Tensor, index: Tensor) -> Tensor:
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

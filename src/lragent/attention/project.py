"""The LR projection ``z = x A`` for one or several slots of each token."""

from __future__ import annotations

import torch
from torch import Tensor


def project_lr_reference(x: Tensor, a: Tensor, index: Tensor) -> Tensor:
    """`lragent.attention.project_lr`, token by token in float64."""
    out = x.new_zeros(*index.shape, a.shape[1])
    for token, rows in enumerate(index.tolist()):
        for column, row in enumerate(rows):
            if row >= 0:
                out[token, column] = (a[row].double() @ x[token].double()).to(x.dtype)
    return out


def project_lr_torch(x: Tensor, a: Tensor, index: Tensor) -> Tensor:
    """`lragent.attention.project_lr`, one matrix product for each A that occurs.

    Mostly all tokens of a step need the same A; then nothing has to be picked out.
    """
    rows = index[0].tolist() if len(index) else []
    if rows and min(rows) >= 0 and (len(index) == 1 or bool((index == index[:1]).all())):
        parts = [torch.nn.functional.linear(x, a[row].to(x.dtype)) for row in rows]
        return parts[0].unsqueeze(1) if len(parts) == 1 else torch.stack(parts, dim=1)
    out = x.new_zeros(*index.shape, a.shape[1])
    for row in index.unique().tolist():
        if row < 0:
            continue
        tokens, columns = (index == row).nonzero(as_tuple=True)
        out[tokens, columns] = torch.nn.functional.linear(x[tokens], a[row].to(x.dtype))
    return out

"""The one custom op: it keeps the compiler from dropping the store of the low-rank products."""

from __future__ import annotations

import torch
from torch import Tensor

_library: torch.library.Library | None = None  # the op lives as long as this object


def _store_lr(dst: Tensor, x: Tensor, down: Tensor, rows: Tensor) -> None:
    from lragent.attention import project_lr

    count = x.shape[0]
    dst[:count].copy_(project_lr(x, down, rows[:count]))


def _store_lr_fake(dst: Tensor, x: Tensor, down: Tensor, rows: Tensor) -> None:
    return None


def define_ops() -> None:
    """Define ``torch.ops.lragent.store_lr(dst, x, down, rows)``; once a process.

    It writes ``x A`` of each token's slots to ``dst[:T]``: ``x [T, d]``, ``down [n, r, d]``,
    ``rows [>=T, F]`` int32 (-1 gives zeros), ``dst [>=T, F, r]``.
    """
    global _library
    if _library is not None:
        return
    library = torch.library.Library("lragent", "FRAGMENT")
    library.define("store_lr(Tensor(a!) dst, Tensor x, Tensor down, Tensor rows) -> ()")
    library.impl("store_lr", _store_lr, "CompositeExplicitAutograd")
    library._register_fake("store_lr", _store_lr_fake)
    _library = library

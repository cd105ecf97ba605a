"""The one custom op: it keeps the compiler from dropping the store of the low-rank products."""

from __future__ import annotations

import torch
from torch import Tensor

_library: torch.library.Library | None = None  # the op lives as long as this object


def store_lr_host(dst: Tensor, out: Tensor, x: Tensor, down: Tensor, rows: Tensor) -> None:
    """The op on CPUs; see `define_ops`."""
    from lragent.attention import project_lr

    count = x.shape[0]
    dst[:count].copy_(project_lr(x, down, rows[:count]))


def store_lr_device(dst: Tensor, out: Tensor, x: Tensor, down: Tensor, rows: Tensor) -> None:
    """The op on GPUs: the kernel writes where attention reads. See `define_ops`."""
    from lragent.attention.gpu.project import launch_project

    launch_project(x if x.stride(1) == 1 else x.contiguous(), down, rows, dst)


def _store_lr_fake(dst: Tensor, out: Tensor, x: Tensor, down: Tensor, rows: Tensor) -> None:
    return None


def define_ops() -> None:
    """Define ``torch.ops.lragent.store_lr(dst, out, x, down, rows)``; once a process.

    It writes ``x A`` to ``dst[:T]`` for each A that a token's slots need: ``x [T, d]``, ``down [n,
    r, d]``, ``rows [>=T, F]`` int32 (-1 for none), ``dst [>=T, n, r]``. ``out`` is the layer's
    result, which the op leaves alone and yet declares to change: whatever reads q, k or v,
    attention above all, then comes after the store, however a compiler orders the graph.
    """
    global _library
    if _library is not None:
        return
    library = torch.library.Library("lragent", "FRAGMENT")
    library.define(
        "store_lr(Tensor(a!) dst, Tensor(b!) out, Tensor x, Tensor down, Tensor rows) -> ()"
    )
    library.impl("store_lr", store_lr_host, "CPU")
    library.impl("store_lr", store_lr_device, "CUDA")
    library._register_fake("store_lr", _store_lr_fake)
    _library = library

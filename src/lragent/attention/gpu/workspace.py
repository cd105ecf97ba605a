"""Buffers that kernels share between calls, so that a call allocates nothing.

A buffer grows to the next power of two when a larger batch arrives and is never freed: a CUDA graph
that was captured with it may still be replayed. Growing while a graph is being captured is refused,
as the memory would belong to that graph alone: run the batch once under `graph_safe` before. All
calls on a device share the buffers, so they must run one after the other (one stream, or streams
that wait for each other).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.base import UnsupportedError

_buffers: dict[tuple[str, torch.device], list[Tensor]] = {}


def buffer(name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """At least ``size`` elements of ``dtype`` that stay valid until the next call with ``name``.

    Raises:
        UnsupportedError: the buffer is too small and a CUDA graph is being captured.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    held = _buffers.setdefault((name, device), [])
    needed = size * dtype.itemsize
    if not held or held[-1].numel() < needed:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise UnsupportedError(
                f"buffer {name!r} must grow to {needed} bytes while a CUDA graph is captured: "
                "run this batch once under lragent.attention.gpu.graph_safe before"
            )
        held.append(
            torch.empty(1 << max(needed - 1, 255).bit_length(), dtype=torch.uint8, device=device)
        )
    return held[-1][:needed].view(dtype)


def held_bytes() -> int:
    """Bytes of all buffers, outgrown ones included."""
    return sum(item.numel() for held in _buffers.values() for item in held)

"""Buffers that kernels share between calls, so that a call allocates nothing.

A buffer grows to the next power of two when a larger batch arrives and is never freed: a CUDA graph
that was captured with it may still be replayed. Growing while a graph is being captured is refused,
as the buffer would belong to that graph alone; run the largest batch once before capturing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.base import UnsupportedError

_buffers: dict[tuple[str, torch.device, int], list[Tensor]] = {}


def buffer(name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """At least ``size`` elements of ``dtype`` that stay valid until the next call with ``name``.

    One buffer serves every layer of a model, in stream order; each stream has its own.

    Raises:
        UnsupportedError: the buffer is too small and a CUDA graph is being captured.
    """
    cuda = device.type == "cuda"
    stream = torch.cuda.current_stream(device).cuda_stream if cuda else 0
    if cuda and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    held = _buffers.setdefault((name, device, stream), [])
    needed = size * dtype.itemsize
    if not held or held[-1].numel() < needed:
        if cuda and torch.cuda.is_current_stream_capturing():
            raise UnsupportedError(
                f"buffer {name!r} must grow to {needed} bytes while a CUDA graph is captured: "
                "run this batch once on the capturing stream before the capture"
            )
        held.append(
            torch.empty(1 << max(needed - 1, 255).bit_length(), dtype=torch.uint8, device=device)
        )
    return held[-1][:needed].view(dtype)


def held_bytes() -> int:
    """Bytes of all buffers, outgrown ones included."""
    return sum(item.numel() for held in _buffers.values() for item in held)

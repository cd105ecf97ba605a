"""The same run gives the same adapters, to the bit, on the same machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic() -> Iterator[None]:
    """Have torch choose, in this block, operations that repeat bit by bit.

    Raises:
        RuntimeError: by torch, in the block, at an operation that has no such version.
    """
    # cuBLAS reads this when its first handle is made, and torch insists on it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # This only finds programs that read memory which nobody wrote, at a kernel for each new tensor:
    # a quarter of all kernels of a training step.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before, warn_only=only_warned)

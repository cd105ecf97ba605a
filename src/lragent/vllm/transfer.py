"""From the host to the device without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_ELEMENTS = {
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.bool: np.bool_,
}


def send(targets: Sequence[Tensor], values: Sequence[np.ndarray]) -> None:
    """Copy arrays to tensors, all of them at once.

    From ordinary memory, CUDA would first wait for the step that runs. Torch keeps the pinned
    memory until the copy is done.

    Args:
        targets: contiguous, of one dtype, on one device.
        values: one for each, with as many numbers, of any dtype if they fit into the tensor's.
    """
    first = targets[0]
    flat = [np.asarray(value, dtype=_ELEMENTS[first.dtype]).reshape(-1) for value in values]
    source = torch.from_numpy(np.concatenate(flat))
    if first.device.type == "cuda":
        source = source.pin_memory().to(first.device, non_blocking=True)
    parts = source.split([len(value) for value in flat])
    rows = [target.view(-1) for target in targets]
    torch._foreach_copy_(rows, parts)  # pyright: ignore[reportPrivateImportUsage]

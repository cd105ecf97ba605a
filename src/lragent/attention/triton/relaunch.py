"""Launches without Triton's work for each call.

Triton looks at every argument of a launch to find the compiled kernel that fits, some thirty
microseconds for the arguments of attention. A step of a model launches the same kernels in every
layer, on other memory alone, and waits for the host. Here the kernel that fits is found once.
"""

# kernel[grid](...) is Triton's way to launch; a type checker sees a plain function.
# pyright: reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, int, int]


class Launch:
    """Launches of one kernel that differ in tensors, grid and integers that are not compiled in.

    Triton compiles in that an integer is 1 or a multiple of 16, unless the kernel is declared
    ``do_not_specialize`` for it, and that a tensor begins at a multiple of 16 bytes. The latter is
    looked at in every call.

    Args:
        kernel: takes tensors, then other arguments, then constants.
        options: the kernel's constants, and Triton's options such as ``num_warps``.
    """

    def __init__(self, kernel: Any, options: dict[str, Any]):
        self.kernel = kernel
        self.options = options
        self.constants = tuple(options[name] for name in kernel.arg_names if name in options)
        self._compiled: dict[int, Any] = {}

    def __call__(self, grid: Grid, tensors: tuple[Tensor, ...], others: tuple[Any, ...]) -> None:
        """Launch once.

        Args:
            grid: programs in each direction.
            tensors: the kernel's first arguments, on the current device.
            others: its next ones.
        """
        aligned = 0
        for tensor in tensors:
            aligned = aligned * 2 + (tensor.data_ptr() % 16 == 0)
        compiled = self._compiled.get(aligned)
        if compiled is None:  # the first, and every one in Triton's interpreter
            self._compiled[aligned] = self.kernel[grid](*tensors, *others, **self.options)
        else:
            compiled[grid](*tensors, *others, *self.constants)


_launches: dict[Hashable, Launch] = {}


def launch_of(kernel: Any, device: torch.device, fixed: Hashable, **options: Any) -> Launch:
    """The `Launch` of a kernel on a device, the same one for equal arguments.

    Args:
        kernel: as in `Launch`.
        device: of its tensors.
        fixed: dtypes of the tensors, and the integers that Triton compiles in.
        options: as in `Launch`.
    """
    key = (kernel, device, fixed, tuple(options.items()))
    found = _launches.get(key)
    if found is None:
        found = _launches[key] = Launch(kernel, options)
    return found

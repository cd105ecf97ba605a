"""Launches without Triton's work for each call.

Triton looks at every argument of a launch to find the compiled kernel that fits, some thirty
microseconds for the arguments of attention. A step of a model launches the same kernels in every
layer, on other memory alone, and waits for the host. Here the kernel that fits is found once, and
gets addresses: a tensor would be asked for its address again, and the driver what lies there.
Triton's launch hooks, which some profilers set, see the first launch only.

What a compiled kernel is launched by is private to Triton, so this is done where it takes what it
took in the versions that are known; elsewhere every launch is Triton's own, slower and otherwise
the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from triton.runtime import driver

Grid = tuple[int, int, int]

_FIRST = ("gridX", "gridY", "gridZ", "stream", "function")
_HOOKS = ("launch_enter_hook", "launch_exit_hook")
_KNOWN = {
    "3.6": (*_FIRST, "args"),
    "3.7 to 3.9": (*_FIRST, "kernel_metadata", "launch_metadata", *_HOOKS, "args"),
}
"""Parameters of a compiled kernel's launcher by version of Triton."""


def is_known(launcher: Any) -> bool:
    """Whether a compiled kernel's launcher takes the arguments that `Launch` gives."""
    try:
        return tuple(inspect.signature(launcher).parameters) in _KNOWN.values()
    except (TypeError, ValueError):
        return False


class Launch:
    """Launches of one kernel that differ in tensors, grid and integers that are not compiled in.

    Triton compiles in that an integer is 1 or a multiple of 16, unless the kernel is declared
    ``do_not_specialize`` for it, and that a tensor begins at a multiple of 16 bytes. The latter is
    looked at in every call.

    Args:
        kernel: takes tensors, then other arguments, then constants.
        device: of the tensors.
        options: the kernel's constants, and Triton's options such as ``num_warps``.
    """

    def __init__(self, kernel: Any, device: torch.device, options: dict[str, Any]):
        self.kernel = kernel
        self.device = device
        self.options = options
        self.constants = tuple(options[name] for name in kernel.arg_names if name in options)
        self._compiled: dict[int, Callable[[Grid, tuple[Any, ...]], None]] = {}

    def __call__(self, grid: Grid, tensors: tuple[Tensor, ...], others: tuple[Any, ...]) -> None:
        """Launch once.

        Args:
            grid: programs in each direction.
            tensors: the kernel's first arguments, on the current device.
            others: its next ones.
        """
        pointers = [tensor.data_ptr() for tensor in tensors]
        low = 0
        for pointer in pointers:
            low |= pointer
        misaligned = _misaligned(pointers) if low % 16 else 0
        again = self._compiled.get(misaligned)
        if again is not None:
            again(grid, (*pointers, *others, *self.constants))
            return
        # The first time, and every time in Triton's interpreter, which compiles nothing, and where
        # the launcher is not known.
        compiled = self.kernel[grid](*tensors, *others, **self.options)
        if compiled is not None and is_known(compiled.run):
            self._compiled[misaligned] = _again(compiled, self.device)


def _misaligned(pointers: list[int]) -> int:
    """A bit for each pointer, set where it is no multiple of 16."""
    bits = 0
    for pointer in pointers:
        bits = bits * 2 + (pointer % 16 != 0)
    return bits


def _again(compiled: Any, device: torch.device) -> Callable[[Grid, tuple[Any, ...]], None]:
    """Launches a compiled kernel as Triton does, without hooks."""
    run, metadata = compiled.run, compiled.packed_metadata
    active: Any = driver.active
    stream_of, index = active.get_current_stream, device.index

    def launch(grid: Grid, arguments: tuple[Any, ...]) -> None:
        # It holds on to the kernel, which unloads itself when nobody does (since Triton 3.8).
        function = compiled.function
        run(*grid, stream_of(index), function, metadata, None, None, None, *arguments)

    return launch


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
        found = _launches[key] = Launch(kernel, device, options)
    return found

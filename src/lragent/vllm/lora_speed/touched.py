"""Which adapters have weights in which modules, so that vLLM's LoRA kernels pass over the others.

vLLM runs its two LoRA kernels in every linear module for every adapter of a batch, on zeros where
the adapter has no weights there: for adapters of q and v, three quarters of the work is for
nothing. The kernels end at once for adapter -1, which they take from the batch's list of adapters.
Here each kind of module has a list of its own, without the adapters that leave the kind alone.

Where a list is empty, nothing has to be launched at all: between CUDA graphs that is time of the
host, which a step of several hundred tokens waits for. vLLM has a flag for batches without adapters
that its operators look at first; here each kind has its own. Graphs are captured with vLLM's dummy
adapters, which have weights everywhere, so all kernels are in them, and read the lists.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import torch

from lragent.vllm.transfer import send

KINDS = 8  # of modules; the families served have four


class TouchedModules:
    """The batch's adapters by kind of module (``o_proj``, ``down_proj``…).

    The lists keep their addresses, so that compiled code and CUDA graphs may refer to them.

    Args:
        max_loras: places of adapters on the device.
        device: the model's device.

    Attributes:
        lists: ``[KINDS, max_loras + 1]`` int32, each kind's list; -1 for none.
        skips: for each kind ``[1]`` bool on the host, whether its list is empty.
        stale: whether `refresh` has to run before the next step.
    """

    def __init__(self, max_loras: int, device: torch.device | str):
        self.lists = torch.full((KINDS, max_loras + 1), -1, dtype=torch.int32, device=device)
        # A model is made under a default device, which is the GPU.
        self.skips = [torch.zeros(1, dtype=torch.bool, device="cpu") for _ in range(KINDS)]
        self.stale = False
        self._touched = np.zeros((KINDS, max_loras), dtype=np.bool_)
        self._layers: list[list[set[str]]] = [
            [set() for _ in range(max_loras)] for _ in range(KINDS)
        ]
        self._kinds: dict[str, int] = {}
        self._wrappers: dict[int, Any] = {}
        self._active = np.empty(0, dtype=np.int64)

    def mark(self, path: str, place: int, touched: bool) -> None:
        """Note whether the adapter at a place has weights in the module at a path."""
        kind = self._kind(path)
        layers = self._layers[kind][place]
        before = bool(layers)
        (layers.add if touched else layers.discard)(path)
        if before != bool(layers):
            self._touched[kind, place] = bool(layers)
            self.stale = True

    def wrapper_for(self, path: str, punica: Any) -> Any:
        """What runs the kernels of the module at a path.

        It shares everything with `punica` but the list of adapters and the flag that there are
        none. On a CPU, where vLLM has no such list, it is `punica` itself.
        """
        meta = getattr(punica, "token_mapping_meta", None)
        if meta is None:
            return punica
        kind = self._kind(path)
        if kind not in self._wrappers:
            wrapper = copy.copy(punica)
            wrapper.token_mapping_meta = dataclasses.replace(
                meta, active_lora_ids=self.lists[kind], no_lora_flag_cpu=self.skips[kind]
            )
            self._wrappers[kind] = wrapper
        return self._wrappers[kind]

    def follow(self, active: np.ndarray) -> np.ndarray:
        """The kinds' lists for a batch with these adapters (-1 for none), to be put in `lists`.

        `skips` is set already.
        """
        self._active, self.stale = active, False
        lists = np.full(self.lists.shape, -1, dtype=np.int64)
        touched = self._touched[:, np.maximum(active, 0)] & (active >= 0)
        lists[:, : len(active)] = np.where(touched, active, -1)
        for skip, used in zip(self.skips, np.any(touched, axis=1).tolist(), strict=True):
            skip[0] = not used
        return lists

    def refresh(self) -> None:
        """Correct the lists of the batch that was followed last, after marks have changed."""
        send([self.lists], [self.follow(self._active)])

    def _kind(self, path: str) -> int:
        return self._kinds.setdefault(path.rpartition(".")[2], len(self._kinds))

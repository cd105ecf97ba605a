"""What one worker knows of the step that runs: who writes what, who reads which slot.

The buffers keep their addresses, so that compiled code and CUDA graphs may refer to them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lragent.vllm.config import Options
from lragent.vllm.orders import OWN_ROW, Admission, StepOrders
from lragent.vllm.row_loading import load_rows

_NOBODY = Admission(0, -1, (), False)
_OWN = -2  # in `rows` until the adapters' places in vLLM's stacks are known


@dataclass(frozen=True)
class WorkerSizes:
    """Sizes that the buffers follow.

    Attributes:
        max_tokens: most tokens of a step, T.
        max_requests: most requests of a step.
        max_loras: adapters that vLLM holds on the device at once.
        rank: width of an LR slot, vLLM's ``max_lora_rank``.
    """

    max_tokens: int
    max_requests: int
    max_loras: int
    rank: int


class WorkerState:
    """Per-token and per-request orders of the current step.

    Args:
        options: the plugin's options.
        sizes: sizes of the buffers.
        dtype: element type of the cache.
        device: the model's device.

    Attributes:
        write_base: ``[T]`` bool, whether the token's K and V_base are written.
        fold: ``[T, 1]`` float, 1 where the adapter's term goes into V.
        rows: ``[T, F]`` int32, whose A each filled slot is multiplied with (row of the layers'
            ``down``), -1 for none.
        slots: ``[T, F]`` int32, the slot that each product goes to, -1 for none.
        lr: ``[T, F, rank]``, the products of the layer that runs.
        slot_of_request: ``[R]`` int32, slot that each request reads, -1 for none.
        host_slots: the same as a list, for the requests of the step.
        layers: the LoRA layers by the path of their attention module.
    """

    def __init__(
        self, options: Options, sizes: WorkerSizes, dtype: torch.dtype, device: torch.device | str
    ):
        self.options = options
        self.sizes = sizes
        tokens, columns = sizes.max_tokens, options.columns
        self.write_base = torch.ones(tokens, dtype=torch.bool, device=device)
        self.fold = torch.zeros(tokens, 1, dtype=torch.float32, device=device)
        self.rows = torch.full((tokens, columns), -1, dtype=torch.int32, device=device)
        self.slots = torch.full((tokens, columns), -1, dtype=torch.int32, device=device)
        self.lr = torch.zeros(tokens, columns, sizes.rank, dtype=dtype, device=device)
        self.slot_of_request = torch.full(
            (sizes.max_requests,), -1, dtype=torch.int32, device=device
        )
        self.host_slots: list[int] = []
        self.layers: dict[str, Any] = {}
        self.punica: Any = None
        self._tokens = 0
        self._admitted: dict[str, Admission] = {}

    @property
    def down_rows(self) -> int:
        """Rows of a layer's ``down``: the active adapters' own, then the groups'."""
        return self.sizes.max_loras + self.options.extra_rows

    def begin_step(self, orders: StepOrders | None, ended: Iterable[str]) -> None:
        """Take in the orders that came with a scheduler output.

        Args:
            orders: None when the output carries none.
            ended: requests that are finished; they may come again as new ones in this output.
        """
        for request in ended:
            self._admitted.pop(request, None)
        if orders is not None:
            self._admitted.update(orders.admissions)
            if orders.loads:
                load_rows(self.layers, orders.loads, self.sizes)

    def fill(
        self, requests: Sequence[str], computed: Sequence[int], scheduled: Sequence[int]
    ) -> None:
        """Lay out the step's tokens: ``scheduled[i]`` of request i, from ``computed[i]`` on."""
        total = int(sum(scheduled))
        columns = self.options.columns
        write_base = torch.ones(total, dtype=torch.bool)
        fold = torch.zeros(total, 1)
        rows = torch.full((total, columns), -1, dtype=torch.int32)
        slots = torch.full((total, columns), -1, dtype=torch.int32)
        self.host_slots = []
        start = 0
        for request, first, count in zip(requests, computed, scheduled, strict=True):
            admission = self._admitted.get(request, _NOBODY)
            self.host_slots.append(admission.slot)
            first, end = int(first), start + int(count)
            cached = min(end, start + max(0, admission.base_tokens - first))
            write_base[start:cached] = False
            if admission.folds:
                fold[start:end] = 1
            for column, order in enumerate(admission.fills):
                valid = min(end, start + max(0, order.start - first))
                slots[valid:end, column] = order.slot
                own = order.row == OWN_ROW
                rows[valid:end, column] = _OWN if own else self.sizes.max_loras + order.row
            start = end
        self.write_base[:total].copy_(write_base)
        self.fold[:total].copy_(fold)
        self.rows[:total].copy_(rows)
        self.slots[:total].copy_(slots)
        count = len(self.host_slots)
        self.slot_of_request[:count].copy_(torch.tensor(self.host_slots, dtype=torch.int32))
        self._tokens = total

    def resolve(self) -> None:
        """Put the adapters' places in vLLM's stacks where a token's own A is wanted.

        To be called once vLLM has activated the step's adapters, before the model runs. Does
        nothing when called again.
        """
        if self.punica is None or not self._tokens:
            return
        rows = self.rows[: self._tokens]
        places = self.punica._token_lora_indices[: self._tokens, None].to(rows.dtype)
        torch.where(rows == _OWN, places, rows, out=rows)
        self._tokens = 0


_states: weakref.WeakValueDictionary[str, WorkerState] = weakref.WeakValueDictionary()


def state_of(vllm_config: Any) -> WorkerState | None:
    """The worker's state for an engine, None before its first layer was made."""
    return _states.get(vllm_config.instance_id)


def make_state(vllm_config: Any, options: Options, device: torch.device | str) -> WorkerState:
    """The worker's state for an engine, made when its first layer is."""
    state = _states.get(vllm_config.instance_id)
    if state is None:
        scheduler = vllm_config.scheduler_config
        sizes = WorkerSizes(
            max_tokens=scheduler.max_num_batched_tokens,
            max_requests=scheduler.max_num_seqs,
            max_loras=vllm_config.lora_config.max_loras,
            rank=vllm_config.lora_config.max_lora_rank,
        )
        state = WorkerState(options, sizes, vllm_config.model_config.dtype, device)
        _states[vllm_config.instance_id] = state
    return state

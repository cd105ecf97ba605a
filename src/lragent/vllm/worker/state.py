"""What one worker knows of the step that runs: who writes what, who reads which slot.

The buffers keep their addresses, so that compiled code and CUDA graphs may refer to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from lragent.attention import KeyRotation
from lragent.vllm.errors import PluginError
from lragent.vllm.messages import NEVER, OWN_ROW, Admission, StepMessage
from lragent.vllm.options import Options
from lragent.vllm.transfer import send
from lragent.vllm.worker.row_loading import load_rows
from lragent.vllm.worker.split import Split, split_rows

_OWN = -2  # in `rows`, less the request's number, until the place of its adapter is known


@dataclass(frozen=True)
class WorkerSizes:
    """Sizes that the buffers follow.

    Attributes:
        max_tokens: most tokens of a step, T.
        max_rows: most rows of a step's attention, R.
        max_loras: adapters that vLLM holds on the device at once.
        rank: width of an LR slot, vLLM's ``max_lora_rank``.
    """

    max_tokens: int
    max_rows: int
    max_loras: int
    rank: int


class _Plan(NamedTuple):
    """An admission, and its fills ``[4, F]``: slots, rows, first tokens and those behind them."""

    admission: Admission
    table: np.ndarray


class _Decode(NamedTuple):
    """A step of one token for each request that is laid out already.

    As long as the same requests follow with one token each, and none reaches a position at which
    something begins or ends for it (``behind``), the next step's layout is the same.
    """

    requests: Sequence[str]
    firsts: Sequence[int]
    behind: Sequence[int]
    in_context: np.ndarray | None

    def covers(
        self, requests: Sequence[str], computed: Sequence[int], scheduled: Sequence[int]
    ) -> bool:
        return (
            requests == self.requests
            and all(count == 1 for count in scheduled)
            and all(map(_in_range, computed, self.firsts, self.behind))
        )


def _in_range(position: int, first: int, behind: int) -> bool:
    return first <= position < behind


class WorkerState:
    """What each token of the current step writes, and what each request reads.

    Args:
        options: the plugin's options.
        sizes: sizes of the buffers.
        dtype: element type of the cache.
        device: the model's device.

    Attributes:
        write_base: ``[T]`` bool, whether the token's K and V_base are written.
        fold: ``[T, 1]`` float, 1 where the adapter's terms go into K and V.
        rows: ``[T, F]`` int32, whose A each filled slot is multiplied with (row of the layers'
            ``down``), -1 for none.
        slots: ``[T, F]`` int32, the slot that each product goes to, -1 for none.
        lr: ``[T, n, W]``, the products of the layer that runs, with the n A of ``down``; W is the
            width of an LR slot.
        slot_of_row: ``[R]`` int32, slot that each row of attention reads, -1 for none. A row is a
            request, or its context or turn.
        place_of_row: ``[R]`` int32, place of its adapter in vLLM's stacks, -1 for none; for
            backends that must not wait for the device.
        host_slots: the slots as a list, for the rows of the step.
        layers: the LoRA layers by the path of their attention module.
        rotation: RoPE tables, with LoRA on the keys.
        warm: whether the kernels are compiled.
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
        width = options.slot_width(sizes.rank)
        self.lr = torch.zeros(tokens, self.down_rows, width, dtype=dtype, device=device)
        self.slot_of_row = torch.full((sizes.max_rows,), -1, dtype=torch.int32, device=device)
        self.place_of_row = torch.full_like(self.slot_of_row, -1)
        self.host_slots: list[int] = []
        self.layers: dict[str, Any] = {}
        self.punica: Any = None
        self.rotation: KeyRotation | None = None
        self.warm = False
        self._tokens = 0
        self._decode: _Decode | None = None
        self._kept: tuple[Sequence[str], Sequence[int], Sequence[int]] | None = None
        self._mapping: Any = None
        self._split: Split | None = None
        self._in_context: np.ndarray | None = None
        self._inputs: tuple[int, tuple[torch.Tensor, ...]] | None = None
        self._admitted: dict[str, _Plan] = {}
        self._nobody = self._plan(Admission(0, -1, (), False))

    def _plan(self, admission: Admission) -> _Plan:
        table = np.zeros((4, self.options.columns), dtype=np.int32)
        table[:2] = -1
        for column, order in enumerate(admission.fills):
            own = order.row == OWN_ROW
            row = _OWN if own else self.sizes.max_loras + order.row
            table[:, column] = order.slot, row, order.start, order.stop
        return _Plan(admission, table)

    @property
    def down_rows(self) -> int:
        """Rows of a layer's ``down``: the active adapters' own, then the groups'."""
        return self.sizes.max_loras + self.options.extra_rows

    def begin_step(self, message: StepMessage | None, ended: Iterable[str]) -> None:
        """Take in the message that came with a scheduler output.

        Args:
            message: None when the output carries none.
            ended: requests that are finished; they may come again as new ones in this output.
        """
        for request in ended:
            self._admitted.pop(request, None)
        if message is not None:
            if message.admissions:
                self._decode = None
            for request, admission in message.admissions.items():
                self._admitted[request] = self._plan(admission)
            if message.loads:
                load_rows(self.layers, message.loads, self.sizes.max_loras, self.sizes.rank)

    def fill(
        self, requests: Sequence[str], computed: Sequence[int], scheduled: Sequence[int]
    ) -> None:
        """Lay out the step's tokens: ``scheduled[i]`` of request i, from ``computed[i]`` on.

        A step of a steady decode finds its layout on the device; `resolve` says whether it may
        stay.
        """
        decode = self._decode
        if decode and not self._tokens and decode.covers(requests, computed, scheduled):
            self._kept = requests, computed, scheduled
            self._in_context = decode.in_context
        else:
            self._lay_out(requests, computed, scheduled)

    def _lay_out(
        self, requests: Sequence[str], computed: Sequence[int], scheduled: Sequence[int]
    ) -> None:
        plans = [self._admitted.get(request, self._nobody) for request in requests]
        self.host_slots = [plan.admission.slot for plan in plans]
        self._split = self._in_context = self._decode = self._kept = None
        if not plans:
            return
        table = np.stack([plan.table for plan in plans])
        counts, firsts = np.asarray(scheduled), np.asarray(computed)
        total = int(counts.sum())
        request = np.repeat(np.arange(len(plans)), counts)
        position = np.arange(total) - np.repeat(np.cumsum(counts) - counts - firsts, counts)
        acts_from = np.array([plan.admission.acts_from for plan in plans])
        if self.options.splits:
            self._in_context = position < acts_from[request]
            self._read_in_parts(counts, np.clip(acts_from - firsts, 0, counts))
        slots, rows, starts, stops = (table[request, part] for part in range(4))
        filled = (position[:, None] >= starts) & (position[:, None] < stops)
        rows = np.where(rows == _OWN, _OWN - request[:, None], rows)
        padded = np.full(self.sizes.max_rows, -1)
        padded[: len(self.host_slots)] = self.host_slots
        send(
            [self.slots[:total], self.rows[:total], self.slot_of_row],
            [np.where(filled, slots, -1), np.where(filled, rows, -1), padded],
        )
        base = np.array([plan.admission.base_tokens for plan in plans])
        send([self.write_base[:total]], [position >= base[request]])
        if self.options.folds:
            folds = np.array([plan.admission.folds for plan in plans])
            send([self.fold[:total]], [folds[request]])
        self._tokens = total
        if (counts == 1).all():
            ends = np.column_stack([table[:, 2], table[:, 3], base, acts_from])
            behind = np.where(ends > firsts[:, None], ends, NEVER).min(axis=1)
            self._decode = _Decode(requests, computed, behind.tolist(), self._in_context)

    def _read_in_parts(self, counts: np.ndarray, context: np.ndarray) -> None:
        """Rows of attention where requests begin with ``context`` tokens that read no slot."""
        slots, split = np.array(self.host_slots), split_rows(counts, context)
        if split is None:
            slots = np.where(context > 0, -1, slots)
        else:
            slots = np.where(split.acts, slots[split.request], -1)
        self._split, self.host_slots = split, slots.tolist()

    def take_split(self, tokens: int) -> Split | None:
        """The rows of a step where some request is two, for whoever builds it; once a step.

        Raises:
            PluginError: the step has another number of tokens.
        """
        split, self._split = self._split, None
        if split is not None and split.total != tokens:
            raise PluginError(
                f"vLLM builds attention of {tokens} tokens where {split.total} are scheduled and "
                "prompts cross into a turn; start it with --enforce-eager and report this"
            )
        return split

    def base_in_context(self, adapters: Sequence[int]) -> Sequence[int]:
        """The adapter id of each token of the step, 0 for those that the base model computes."""
        context, self._in_context = self._in_context, None
        if context is None or not context.any():
            return adapters
        return tuple(np.where(context, 0, adapters).tolist())

    def write_inputs(self, tokens: int) -> tuple[torch.Tensor, ...]:
        """``lr``, ``write_base``, ``rows`` and ``slots`` of the first tokens, for every layer."""
        if self._inputs is None or self._inputs[0] != tokens:
            buffers = (self.lr, self.write_base, self.rows, self.slots)
            self._inputs = tokens, tuple(buffer[:tokens] for buffer in buffers)
        return self._inputs[1]

    def resolve(self) -> bool:
        """Put the adapters' places in vLLM's stacks where a request's own A is wanted.

        To be called once vLLM has activated the step's adapters, before the model runs; called
        again, or in a run without requests, it only has the next step laid out anew. Returns
        whether everything on the device is as in the step before, the places too.
        """
        kept, self._kept = self._kept, None
        mapping = getattr(self.punica, "lragent_mapping", None)
        if kept is not None:
            if mapping is not None and mapping is self._mapping:
                return True
            self._lay_out(*kept)
            self._in_context = None  # the adapters are in place
        self._mapping = mapping
        if self.punica is None or not self._tokens:
            self._decode = None  # a run without requests uses the same buffers
            return False
        rows = self.rows[: self._tokens]
        # By request: a token of its context has no adapter.
        places = self.punica._sampler_indices[(_OWN - rows).clamp_(min=0)]
        torch.where(rows <= _OWN, places.to(rows.dtype), rows, out=rows)
        self._tokens = 0
        return False


def state_of(vllm_config: Any) -> WorkerState | None:
    """The worker's state for an engine: its attention layers hold it.

    None before the first layer was made, and in engines without the plugin. The configuration's
    ``instance_id`` would not do as a key: vLLM's engine process gives its configuration a new one
    once everything is made.
    """
    for layer in vllm_config.compilation_config.static_forward_context.values():
        if hasattr(layer, "impl"):
            state = getattr(layer.impl, "state", None)
            return state if isinstance(state, WorkerState) else None
    return None


def make_state(vllm_config: Any, options: Options, device: torch.device | str) -> WorkerState:
    """The worker's state for an engine, made when its first layer is."""
    state = state_of(vllm_config)
    if state is not None:
        return state
    scheduler = vllm_config.scheduler_config
    sizes = WorkerSizes(
        max_tokens=scheduler.max_num_batched_tokens,
        max_rows=scheduler.max_num_seqs * (2 if options.splits else 1),
        max_loras=vllm_config.lora_config.max_loras,
        rank=vllm_config.lora_config.max_lora_rank,
    )
    return WorkerState(options, sizes, vllm_config.model_config.dtype, device)

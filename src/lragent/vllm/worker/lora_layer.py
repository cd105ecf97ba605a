"""vLLM's LoRA layer of q, k and v: what is cached is left free of the adapter."""

# pyright: reportMissingImports=false

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.lora.layers import MergedQKVParallelLinearWithLoRA

from lragent.adapters.model import LoraModule
from lragent.attention import LoraTables
from lragent.vllm.lora_speed.layers import SkipsUntouched
from lragent.vllm.options import options_of
from lragent.vllm.worker.ops import define_ops
from lragent.vllm.worker.state import WorkerState, make_state


class LRMergedQKVWithLoRA(SkipsUntouched, MergedQKVParallelLinearWithLoRA):
    """The adapter's term of q is added as ever; those of k and v are not.

    ``x A`` goes to the worker's buffer, from where the layer's attention writes it to the pages.
    Only for requests of policy ``full`` the terms are folded in. Without the option ``key_lora``,
    k is treated as q: its term is added for every adapter, which is then served alone.

    ``down``: ``[max_loras + groups' rows, W, hidden]``, the A of v and, behind them in each row,
    those of k. ``tables``: the B of v and k, ``[max_loras, rank, KV heads * head size]``.
    """

    @classmethod
    def can_replace_layer(cls, *args: Any, **kwargs: Any) -> bool:
        """As vLLM's own."""
        on = options_of(get_current_vllm_config()) is not None
        return on and super().can_replace_layer(*args, **kwargs)

    def create_lora_weights(
        self, max_loras: int, lora_config: Any, model_config: Any = None
    ) -> None:
        """As vLLM's own, with a row for each A that fills LR slots."""
        super().create_lora_weights(max_loras, lora_config, model_config)
        config = get_current_vllm_config()
        options = options_of(config)
        assert options is not None
        self.state: WorkerState = make_state(config, options, self.device)
        define_ops()
        self.cached = (2, 1) if options.key_lora else (2,)  # v and k among vLLM's q, k, v
        self.slices = 3 if options.folds else 3 - len(self.cached)
        # vLLM's kernels for GPUs overwrite the buffer where some request has an adapter, and leave
        # it alone where none has; then only the factor of k and v would read it.
        self.starts_from_zero = options.folds or self.device.type == "cpu"
        self.rank, hidden = self.lora_a_stacked[2].shape[2:]
        width = options.slot_width(self.rank)
        self.down: Tensor = self.lora_a_stacked[2].new_zeros(self.state.down_rows, width, hidden)
        if not options.key_lora:  # then vLLM's own A of v need not be there twice
            self.lora_a_stacked = (*self.lora_a_stacked[:2], self.down[:max_loras, None])
        ups = []
        for which in self.cached:
            b = self.lora_b_stacked[which]
            ups.append(b.new_zeros(b.shape[0], b.shape[3], b.shape[2]))
        self.tables = LoraTables(*ups)
        self.state.layers[self.base_layer.prefix.rpartition(".")[0]] = self

    def reset_lora(self, index: int) -> None:
        """As vLLM's own."""
        super().reset_lora(index)
        self._copy(index)

    def set_lora(self, index: int, lora_a: Any, lora_b: Any) -> None:
        """As vLLM's own; attention reads A and B from memory that is laid out for it."""
        super().set_lora(index, lora_a, lora_b)
        self._copy(index)

    def _copy(self, index: int) -> None:
        for part, which in enumerate(self.cached):
            up = (self.tables.v_b, self.tables.k_b)[part]
            assert up is not None
            up[index].copy_(self.lora_b_stacked[which][index, 0].T)
            if len(self.cached) > 1:
                rows = slice(part * self.rank, (part + 1) * self.rank)
                self.down[index, rows].copy_(self.lora_a_stacked[which][index, 0])

    def set_down(self, row: int, v: LoraModule | None, k: LoraModule | None) -> None:
        """Put the A of v and k into a row of ``down``; None where an adapter has none."""
        target = self.down[row].zero_()
        for part, module in enumerate((v, k)[: len(self.cached)]):
            if module is not None:
                first = part * self.rank
                target[first : first + module.rank].copy_(module.a)

    def set_mapping(self, punica_wrapper: Any) -> None:
        """As vLLM's own."""
        super().set_mapping(punica_wrapper)
        self.state.punica = punica_wrapper
        if self.device.type == "cpu":
            leave_base_requests_alone(punica_wrapper)
            make_room(punica_wrapper, self.state.sizes.max_rows)

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``[T, hidden]`` to ``[T, q + k + v]``: base, and the adapter's terms that are not cached.

        It is compiled with the model, so it looks at tensors and plain attributes only.
        """
        state, slices = self.state, self.slices
        out = self._get_quant_method().apply(self.base_layer, x, bias)
        size = (slices, x.shape[0], self.rank)
        if self.starts_from_zero:
            shrunk = torch.zeros(size, dtype=torch.float32, device=x.device)
        else:
            shrunk = torch.empty(size, dtype=torch.float32, device=x.device)
        self.punica_wrapper.add_shrink(shrunk, x, self.lora_a_stacked[:slices], 1.0)
        if slices == 3:
            shrunk[3 - len(self.cached) :].mul_(state.fold[: x.shape[0]])
        self.punica_wrapper.add_expand(
            out, shrunk, self.lora_b_stacked[:slices], self.output_slices[:slices]
        )
        torch.ops.lragent.store_lr(state.lr, out, x, self.down, state.rows)
        return out


def leave_base_requests_alone(punica: Any) -> None:
    """Correct vLLM's LoRA on CPUs, where a request without adapter gets that of the last place.

    Its products are set to zero between the two steps.
    """
    if "_apply_shrink" in vars(punica):
        return
    stock = punica._apply_shrink

    def shrink(self: Any, y: Tensor, x: Tensor, weights: Tensor, scale: float) -> None:
        stock(y, x, weights, scale)
        rows = y.view(-1, y.shape[-1])
        rows[self._token_lora_indices[: rows.shape[0]] < 0] = 0

    punica._apply_shrink = types.MethodType(shrink, punica)


def make_room(punica: Any, rows: int) -> None:
    """Let vLLM's LoRA on CPUs take more runs of tokens with one adapter than there are requests."""
    for name in ("_seq_start_locs", "_seq_lengths", "_lora_indices_per_batch"):
        buffer = getattr(punica, name)
        if len(buffer) < rows:
            setattr(punica, name, buffer.new_empty(rows))

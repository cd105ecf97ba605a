"""vLLM's LoRA layer of q, k and v: V is left free of the adapter."""

# pyright: reportMissingImports=false

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.lora.layers import MergedQKVParallelLinearWithLoRA

from lragent.vllm.config import options_of
from lragent.vllm.lora_speed.layers import SkipsUntouched
from lragent.vllm.worker.ops import define_ops
from lragent.vllm.worker.state import WorkerState, make_state


class LRMergedQKVWithLoRA(SkipsUntouched, MergedQKVParallelLinearWithLoRA):
    """The adapter's terms of q and k are added as ever; the one of v is not.

    ``x A`` of v goes to the worker's buffer, from where the layer's attention writes it to the
    pages. Only for requests of policy ``full`` the term of v is folded in.

    ``down``: ``[max_loras + groups' rows, rank, hidden]``; its first rows are what vLLM calls
    ``lora_a_stacked[2]``. ``up``: ``[max_loras, rank, KV heads * head size]``, the B of v.
    """

    @classmethod
    def can_replace_layer(cls, *args: Any, **kwargs: Any) -> bool:
        """As vLLM's own."""
        on = options_of(get_current_vllm_config()) is not None
        return on and super().can_replace_layer(*args, **kwargs)

    def create_lora_weights(
        self, max_loras: int, lora_config: Any, model_config: Any = None
    ) -> None:
        """As vLLM's own, with more rows for the A of v."""
        super().create_lora_weights(max_loras, lora_config, model_config)
        config = get_current_vllm_config()
        options = options_of(config)
        assert options is not None
        self.state: WorkerState = make_state(config, options, self.device)
        define_ops()
        self.slices = 3 if options.folds else 2
        # vLLM's kernels for GPUs overwrite the buffer where some request has an adapter, and leave
        # it alone where none has; then only the factor of v would read it.
        self.starts_from_zero = options.folds or self.device.type == "cpu"
        q, k, v = self.lora_a_stacked
        down = v.new_zeros(self.state.down_rows, *v.shape[1:])
        self.lora_a_stacked = (q, k, down[:max_loras])
        self.down: Tensor = down[:, 0]
        b = self.lora_b_stacked[2]
        self.up = b.new_zeros(b.shape[0], b.shape[3], b.shape[2])
        self.state.layers[self.base_layer.prefix.rpartition(".")[0]] = self

    def reset_lora(self, index: int) -> None:
        """As vLLM's own."""
        super().reset_lora(index)
        self.up[index].zero_()

    def set_lora(self, index: int, lora_a: Any, lora_b: Any) -> None:
        """As vLLM's own; attention reads the B of v with its rows in another order."""
        super().set_lora(index, lora_a, lora_b)
        self.up[index].copy_(self.lora_b_stacked[2][index, 0].T)

    def set_mapping(self, punica_wrapper: Any) -> None:
        """As vLLM's own."""
        super().set_mapping(punica_wrapper)
        self.state.punica = punica_wrapper
        if self.device.type == "cpu":
            leave_base_requests_alone(punica_wrapper)

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``[T, hidden]`` to ``[T, q + k + v]``: base, and the adapter's terms of q and k.

        It is compiled with the model, so it looks at tensors and plain attributes only.
        """
        state, slices = self.state, self.slices
        out = self._get_quant_method().apply(self.base_layer, x, bias)
        size = (slices, x.shape[0], self.up.shape[1])
        if self.starts_from_zero:
            shrunk = torch.zeros(size, dtype=torch.float32, device=x.device)
        else:
            shrunk = torch.empty(size, dtype=torch.float32, device=x.device)
        self.punica_wrapper.add_shrink(shrunk, x, self.lora_a_stacked[:slices], 1.0)
        if slices == 3:
            shrunk[2].mul_(state.fold[: x.shape[0]])
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

"""A context as one reader left it, and as the role that acts on it sees it."""

from __future__ import annotations

import sys
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import DynamicCache


class Context(DynamicCache):
    """Keys and values of a context, filled by its reader and then seen by a role's turn.

    While it is filled it is an ordinary cache that also notes the input x of each attention layer.
    Once it is `read`, nothing is added: the turn's queries get the context's keys and values in
    front of their own. Where the role has LoRA on k_proj or v_proj, these are `x W + s x A B`, with
    the role's own A and B (and RoPE on keys), through which gradients reach both; elsewhere the
    reader's. So the same forward pass twice, as gradient checkpointing needs it, sees the same.
    """

    def __init__(self, attentions: list[nn.Module], own_terms: bool) -> None:
        """`own_terms` False: the turn sees keys and values just as the reader left them."""
        super().__init__()
        self.read = False
        self._attentions = attentions
        self._own_terms = own_terms
        self._inputs: list[Tensor] = []
        self._rotary: tuple[Tensor, Tensor] | None = None

    def note(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> None:
        """Keep an attention layer's input, [rows, columns, hidden], and the rotation of its keys.

        The layers are noted in their order.
        """
        self._inputs.append(x)
        self._rotary = rotary

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Fill one layer, or prepend its context; [rows, heads, columns, head size] each."""
        if not self.read:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        attention = cast(Any, self._attentions[layer_idx])
        seen = cast(Any, self.layers[layer_idx])
        keys, values = seen.keys, seen.values
        if self._own_terms and isinstance(attention.k_proj, BaseTunerLayer):
            keys = _rotated(attention, self._projected(attention.k_proj, layer_idx, keys), self)
        if self._own_terms and isinstance(attention.v_proj, BaseTunerLayer):
            values = self._projected(attention.v_proj, layer_idx, values)
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def _projected(self, projection: Any, layer: int, like: Tensor) -> Tensor:
        rows, heads, columns, size = like.shape
        projected = projection(self._inputs[layer]).view(rows, columns, heads, size)
        return projected.transpose(1, 2)


def _rotated(attention: nn.Module, keys: Tensor, context: Context) -> Tensor:
    """Keys after RoPE, by the function that the model itself rotates them with."""
    cos, sin = cast("tuple[Tensor, Tensor]", context._rotary)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    return rotate(keys, keys, cos, sin)[1]

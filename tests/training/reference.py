"""A slow forward pass of one sample, whose context a reader computes and whose turn a role does.

Written from the formulas, without caches, batches or PEFT: two plain passes over the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

Terms = dict[str, tuple[Tensor, Tensor, float]]
"""A [rank, in], B [out, rank] and the scaling of each adapted module."""


def terms_of(model: PeftModel, adapter: str) -> Terms:
    """The adapter's own parameters, so that gradients of both implementations can be compared."""
    prefix = "base_model.model."
    terms: Terms = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
            a, b = cast(Any, layer.lora_A[adapter]), cast(Any, layer.lora_B[adapter])
            terms[name.removeprefix(prefix)] = (a.weight, b.weight, layer.scaling[adapter])
    return terms


@dataclass
class Reference:
    """Computes with the base model's weights; PEFT layers in `model` are unwrapped."""

    model: Any

    def hidden(
        self, ids: Tensor, start: int, role: Terms, reader: Terms, own_terms: bool = True
    ) -> Tensor:
        """Last hidden states [tokens, hidden] of one sample; its turn begins at column `start`."""
        decoder = self.model.model
        context, turn = decoder.embed_tokens(ids[:start]), decoder.embed_tokens(ids[start:])
        place = torch.arange(len(ids))
        for number, layer in enumerate(decoder.layers):
            name = f"model.layers.{number}.self_attn."
            read, acts = layer.input_layernorm(context), layer.input_layernorm(turn)

            def project(x: Tensor, what: str, terms: Terms, at: Tensor, name=name) -> Tensor:
                return self._heads(x, name + what, terms, at)

            read_k = project(read, "k_proj", reader, place[:start])
            read_v = project(read, "v_proj", reader, place[:start])
            seen = role if own_terms else reader
            seen_k = project(read, "k_proj", seen, place[:start])
            seen_v = project(read, "v_proj", seen, place[:start])
            own_k = project(acts, "k_proj", role, place[start:])
            own_v = project(acts, "v_proj", role, place[start:])
            read_q = project(read, "q_proj", reader, place[:start])
            own_q = project(acts, "q_proj", role, place[start:])
            context = self._finish(context, _attend(read_q, read_k, read_v), number, reader)
            keys, values = torch.cat([seen_k, own_k]), torch.cat([seen_v, own_v])
            turn = self._finish(turn, _attend(own_q, keys, values), number, role)
        return decoder.norm(torch.cat([context, turn]))

    def _linear(self, x: Tensor, name: str, terms: Terms) -> Tensor:
        module = self.model.get_submodule(name)
        module = getattr(module, "base_layer", module)
        y = x @ module.weight.T
        if module.bias is not None:
            y = y + module.bias
        if name in terms:
            a, b, scaling = terms[name]
            y = y + scaling * (x @ a.T) @ b.T
        return y

    def _heads(self, x: Tensor, name: str, terms: Terms, place: Tensor) -> Tensor:
        """Projection [tokens, heads, size], normalised and rotated where the model does so."""
        attention_name, what = name.rsplit(".", 1)
        attention = self.model.get_submodule(attention_name)
        y = self._linear(x, name, terms).unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, what[0] + "_norm", None)
        if norm is not None:
            y = norm(y)
        if what == "v_proj":
            return y
        angle = place[:, None].float() * self.model.model.rotary_emb.inv_freq
        cos, sin = angle.cos()[:, None].to(y.dtype), angle.sin()[:, None].to(y.dtype)
        left, right = y.chunk(2, dim=-1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)

    def _finish(self, hidden: Tensor, attended: Tensor, number: int, terms: Terms) -> Tensor:
        name = f"model.layers.{number}."
        layer = self.model.model.layers[number]
        hidden = hidden + self._linear(attended, name + "self_attn.o_proj", terms)
        x = layer.post_attention_layernorm(hidden)
        gate = self._linear(x, name + "mlp.gate_proj", terms)
        up = self._linear(x, name + "mlp.up_proj", terms)
        return hidden + self._linear(
            torch.nn.functional.silu(gate) * up, name + "mlp.down_proj", terms
        )


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last len(q) tokens, one query and head at a time."""
    group = q.shape[1] // k.shape[1]
    rows = []
    for number in range(len(q)):
        end = len(k) - len(q) + number + 1
        heads = []
        for head in range(q.shape[1]):
            keys, values = k[:end, head // group], v[:end, head // group]
            weight = torch.softmax(keys @ q[number, head] / q.shape[-1] ** 0.5, dim=0)
            heads.append(weight @ values)
        rows.append(torch.cat(heads))
    return torch.stack(rows) if rows else q.flatten(1)

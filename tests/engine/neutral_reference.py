"""The policy `neutral` written out densely: one forward pass over all tokens of one request.

No pages, no slots, no cache and no batch: every token's K and V are there twice, as the base model
made them and with the adapter's term, and each query reads the ones that the policy gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lragent.adapters import Adapter


@torch.inference_mode()
def neutral_logprobs(
    model: PreTrainedModel, adapter: Adapter, tokens: Sequence[int], context: int
) -> Tensor:
    """`[T, vocab]`, log-probabilities after each of `tokens`; the first `context` ones are read by
    the base model. An ordinary adapter sees the context with its own B, an aLoRA one without.
    """
    inner: Any = model.model
    place = torch.arange(len(tokens))
    turn = place >= context
    x = inner.embed_tokens(torch.tensor(tokens))[None]
    rotary = inner.rotary_emb(x, position_ids=place[None])
    for i, block in enumerate(inner.layers):
        x = _Layer(model.config, adapter, i, block, turn).forward(x, rotary)
    head: Any = model.get_output_embeddings()
    return head(inner.norm(x[0])).log_softmax(-1)


class _Layer:
    """One decoder layer; `turn [T]` tells which tokens the adapter computes."""

    def __init__(self, config: Any, adapter: Adapter, index: int, block: Any, turn: Tensor):
        self.config, self.adapter, self.index = config, adapter, index
        self.block, self.turn = block, turn

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        block, turn = self.block, self.turn
        x = x + self.project(
            "self_attn.o_proj", self.attend(block.input_layernorm(x), rotary), turn
        )
        h = block.post_attention_layernorm(x)
        gate = block.mlp.act_fn(self.project("mlp.gate_proj", h, turn))
        return x + self.project("mlp.down_proj", gate * self.project("mlp.up_proj", h, turn), turn)

    def project(self, path: str, h: Tensor, with_term: Tensor) -> Tensor:
        """`h W + s (h A) B`, the second part for the tokens `with_term` only."""
        out = self.block.get_submodule(path)(h)
        module = self.adapter.modules.get(f"model.layers.{self.index}.{path}")
        if module is None:
            return out
        term = module.scaling * (h @ module.a.float().T) @ module.b.float().T
        return out + with_term[:, None] * term

    def heads(self, name: str, h: Tensor, with_term: Tensor) -> Tensor:
        """`[1, heads, T, head_dim]` of one of q, k and v, normalised where the model does so."""
        y = self.project(f"self_attn.{name}_proj", h, with_term)
        y = y.view(1, h.shape[1], -1, self.config.head_dim)
        norm = getattr(self.block.self_attn, f"{name}_norm", None)
        return (y if norm is None else norm(y)).transpose(1, 2)

    def attend(self, h: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        nobody = torch.zeros_like(self.turn)
        # whose K and V have the adapter's term, for a query of the context and for one of the turn
        as_turn = self.turn if self.adapter.is_alora else ~nobody
        read = [self.read(h, rotary, with_term) for with_term in (nobody, as_turn)]
        return torch.where(self.turn[:, None], read[1], read[0])

    def read(self, h: Tensor, rotary: tuple[Tensor, Tensor], with_term: Tensor) -> Tensor:
        """`[1, T, heads * head_dim]`, what all queries get if K and V are these."""
        config = self.config
        group = config.num_attention_heads // config.num_key_value_heads
        q, k = apply_rotary_pos_emb(
            self.heads("q", h, self.turn), self.heads("k", h, with_term), *rotary
        )
        v = self.heads("v", h, with_term).repeat_interleave(group, 1)
        scores = q @ k.repeat_interleave(group, 1).transpose(2, 3) * config.head_dim**-0.5
        p = scores.masked_fill(self.hidden(), float("-inf")).softmax(-1)
        return (p @ v).transpose(1, 2).flatten(2)

    def hidden(self) -> Tensor:
        """`[T, T]`, what each query must not see: the future, and what its window leaves out."""
        place = torch.arange(len(self.turn))
        hidden = place > place[:, None]
        window = getattr(self.block.self_attn, "sliding_window", None)
        if self.config.model_type == "mistral":
            window = self.config.sliding_window
        return hidden if window is None else hidden | (place <= place[:, None] - window)

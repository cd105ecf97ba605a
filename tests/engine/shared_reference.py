"""The sharing policies written out densely, one token matrix a layer, straight from the paper.

No pages, no slots, no hooks: K, V_base and z of every layer are plain tensors, and what an agent
reads of the tokens of another one is looked up by who wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lragent.adapters import Adapter, read_adapter


@dataclass
class Seen:
    """What is cached of the tokens so far, by layer; z by the digest of its A."""

    tokens: list[int] = field(default_factory=list)
    k: dict[int, Tensor] = field(default_factory=dict)
    v: dict[int, Tensor] = field(default_factory=dict)
    z: dict[int, dict[str, Tensor]] = field(default_factory=dict)


class SharedReference:
    """A Llama-like model in fp32 and the adapters of one group."""

    def __init__(self, model: PreTrainedModel, adapters: dict[str, Path]):
        self.model: Any = model.model
        self.head: Any = model.lm_head
        self.config = model.config
        self.adapters = {name: read_adapter(path) for name, path in adapters.items()}

    def delta(self, adapter: Adapter | None, layer: int, projection: str, x: Tensor) -> Tensor:
        """`s (x A) B` of one projection; 0 without an adapter."""
        module = adapter and adapter.modules.get(f"model.layers.{layer}.self_attn.{projection}")
        if not module:
            return torch.zeros(())
        return module.scaling * (x @ module.a.float().T) @ module.b.float().T

    @torch.inference_mode()
    def base_lr(self, seen: Seen, name: str, new: Sequence[int]) -> Tensor:
        """`base+lr`: the agent computes only its own tokens, and writes z for every A.

        Returns the log-probabilities after the last token.
        """
        return self._pass(seen, name, new, start=len(seen.tokens), write_from=len(seen.tokens))

    @torch.inference_mode()
    def base(self, seen: Seen, own: Seen, name: str, new: Sequence[int]) -> Tensor:
        """`base`: the agent passes over all tokens it has not seen, keeping the others' K and V.

        `own` holds this agent's z; tokens of `seen` beyond it are passed again.
        """
        start = len(own.tokens)
        logprobs = self._pass(seen, name, new, start=start, write_from=len(seen.tokens), own=own)
        own.tokens = list(seen.tokens)
        return logprobs

    @torch.inference_mode()
    def full(self, seen: Seen, name: str, new: Sequence[int]) -> Tensor:
        """`full`: as `base_lr`, but V holds the term of the agent that wrote it, and no other's."""
        length = len(seen.tokens)
        return self._pass(seen, name, new, start=length, write_from=length, folds=True)

    def _pass(
        self,
        seen: Seen,
        name: str,
        new: Sequence[int],
        *,
        start: int,
        write_from: int,
        own: Seen | None = None,
        folds: bool = False,
    ) -> Tensor:
        adapter = self.adapters[name]
        seen.tokens = [*seen.tokens, *new]
        total = len(seen.tokens)
        config = self.config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        width = config.head_dim
        x = self.model.embed_tokens(torch.tensor(seen.tokens[start:]))[None]
        positions = torch.arange(start, total)[None]
        cos, sin = self.model.rotary_emb(x, position_ids=positions)
        keep = torch.arange(total)[None, :] <= torch.arange(start, total)[:, None]
        for i, block in enumerate(self.model.layers):
            attention = block.self_attn
            h = block.input_layernorm(x)

            def split(y: Tensor, count: int) -> Tensor:
                return y.view(1, -1, count, width).transpose(1, 2)

            q = split(attention.q_proj(h) + self.delta(adapter, i, "q_proj", h), heads)
            k = split(attention.k_proj(h), kv_heads)
            q, k = apply_rotary_pos_emb(q, k, cos, sin)
            v = attention.v_proj(h)[0]
            if folds:
                v = v + self.delta(adapter, i, "v_proj", h[0])
            fresh = write_from - start
            seen.k[i] = _append(seen.k.get(i), k[0].transpose(0, 1)[fresh:])
            seen.v[i] = _append(seen.v.get(i), v[fresh:])
            value = seen.v[i]
            if not folds:
                z = self._write_z(seen, own, adapter, i, h[0])
                module = adapter.modules[f"model.layers.{i}.self_attn.v_proj"]
                value = value + module.scaling * z @ module.b.float().T
            value = value.view(total, kv_heads, width).transpose(0, 1)
            group = heads // kv_heads
            key = seen.k[i].transpose(0, 1).repeat_interleave(group, 0)
            value = value.repeat_interleave(group, 0)
            scores = q[0] @ key.transpose(1, 2) * width**-0.5
            p = scores.masked_fill(~keep, float("-inf")).softmax(-1)
            out = (p @ value).transpose(0, 1).reshape(1, -1, heads * width)
            x = x + attention.o_proj(out)
            x = x + block.mlp(block.post_attention_layernorm(x))
        return self.head(self.model.norm(x[0, -1])).log_softmax(-1)

    def _write_z(
        self, seen: Seen, own: Seen | None, adapter: Adapter, layer: int, h: Tensor
    ) -> Tensor:
        """Write z of the passed tokens and return the agent's z of all tokens."""
        projection = f"model.layers.{layer}.self_attn.v_proj"
        digest = adapter.a_digests["v_proj"]
        if own is not None:  # policy base: its own A on its own hidden states
            z = own.z.setdefault(layer, {})
            z[digest] = _append(z.get(digest), h @ adapter.modules[projection].a.float().T)
            return z[digest]
        z = seen.z.setdefault(layer, {})
        for other in {a.a_digests["v_proj"]: a for a in self.adapters.values()}.values():
            a = other.modules[projection].a.float()
            key = other.a_digests["v_proj"]
            z[key] = _append(z.get(key), h @ a.T)
        return z[digest]


def _append(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else torch.cat([old, new])

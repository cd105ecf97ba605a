"""The hooked model, its pages and its adapters: one packed step in, logits out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lragent.adapters.model import Adapter
from lragent.attention import Implementation, KeyRotation, choose
from lragent.cache.layout import PageLayout
from lragent.engine.bindings import Binding
from lragent.engine.decode_graphs import DecodeGraphs, Widths
from lragent.engine.families import ModelShape
from lragent.engine.hooks import PagedCache, install
from lragent.engine.kv_storage import KVStorage
from lragent.engine.lora_bank import LoraBank
from lragent.engine.step_context import Step, StepContext


class ModelRunner:
    """Owns the model; nobody else may call it afterwards."""

    def __init__(
        self,
        model: PreTrainedModel,
        shape: ModelShape,
        layout: PageLayout,
        num_pages: int,
        attention: Implementation,
    ):
        self.model = model.eval().requires_grad_(False)
        self.dtype = model.dtype
        self.device = model.device
        self.storage = KVStorage(layout, num_pages, shape.layers, self.dtype, self.device)
        self._context = StepContext()
        self._cache = PagedCache(self.storage, self._context, attention)
        if layout.k_rank:
            self._cache.rotation = self._key_rotation(shape)
        layers = install(model, shape, self._context)
        self.bank = LoraBank(layers, self._cache, self.dtype, self.device)
        self._graphs: DecodeGraphs | None = None
        chosen = choose(self.device) if attention == "auto" else attention
        if self.device.type == "cuda" and chosen == "triton":
            self._graphs = DecodeGraphs(
                self._forward, layout.page_size, shape.max_positions, self.dtype, self.device
            )

    def use_adapters(self, adapters: Iterable[Adapter]) -> None:
        """Hold exactly these adapters' weights; does nothing when they are the ones held."""
        wanted = list(adapters)
        if self.bank.digests != {adapter.digest for adapter in wanted}:
            self.bank.rebuild(wanted)
            if self._graphs is not None:
                self._graphs.clear()

    @torch.inference_mode()
    def run(self, step: Step, bindings: Iterable[Binding]) -> Tensor:
        """Logits `[L, vocab]` of the step's wanted rows, in the model's dtype.

        `bindings` are those of all requests that may come; they bound the buffers of graphs.
        """
        if self._graphs is not None:
            known = list(bindings)
            widths = Widths(
                fills=max((b.most_fills for b in known), default=0),
                ranks=self.bank.owners.numel(),
                folds=any(b.folds for b in known),
            )
            logits = self._graphs.run(step, widths)
            if logits is not None:
                return logits
        return self._forward(step)

    def _forward(self, step: Step) -> Tensor:
        self._context.enter(step)
        try:
            return self.model(
                input_ids=step.input_ids,
                position_ids=step.positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=step.logit_rows,
                paged_cache=self._cache,
            ).logits[0]
        finally:
            self._context.leave()

    @torch.inference_mode()
    def _key_rotation(self, shape: ModelShape) -> KeyRotation:
        """RoPE tables of every position, from the model's own rotary embedding."""
        rotary = self.model.get_submodule("model.rotary_emb")
        positions = torch.arange(shape.max_positions, device=self.device)[None]
        like = torch.empty(0, dtype=torch.float32, device=self.device)
        cos, sin = rotary(like, position_ids=positions)
        return KeyRotation(cos[0].float(), sin[0].float())

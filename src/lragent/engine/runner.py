"""The hooked model, its pages and its adapters: one packed step in, logits out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lragent.adapters.model import Adapter
from lragent.attention import Implementation, KeyRotation, choose
from lragent.cache.layout import PageLayout
from lragent.engine.decode_graphs import DecodeGraphs, Widths
from lragent.engine.families import ModelShape
from lragent.engine.hooks import PagedCache, install
from lragent.engine.kv_storage import KVStorage
from lragent.engine.lora_bank import LoraBank
from lragent.engine.step_context import Step, StepContext
from lragent.sharing import Binding


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
        layers = install(model, shape, self._context)
        self._cache = PagedCache(self.storage, self._context, layers.values(), attention)
        if layout.k_rank:
            self._cache.rotation = self._key_rotation(shape)
        self.bank = LoraBank(layers, self._cache, self.dtype, self.device)
        # transformers 5.24 and later call it `cache`, and will drop the older name
        named = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in named else "past_key_values"
        self._graphs: DecodeGraphs | None = None
        self._widths = Widths(0, 0, False)
        chosen = choose(self.device) if attention == "auto" else attention
        if self.device.type == "cuda" and chosen == "triton":
            self._graphs = DecodeGraphs(
                self._forward, layout.page_size, shape.max_positions, self.dtype, self.device
            )

    def serve(self, bindings: Sequence[Binding[Adapter]]) -> None:
        """Hold exactly the weights that `bindings` need, and be ready for their requests.

        Where there is no memory to place them anew, ones that nobody needs stay till the next call.
        """
        adapters = [adapter for binding in bindings for adapter in binding.needs]
        wanted = {adapter.digest for adapter in adapters}
        if self.bank.digests != wanted:
            try:
                self.bank.rebuild(adapters)
            except (MemoryError, torch.OutOfMemoryError):
                if not wanted <= self.bank.digests:
                    raise
                return
            if self._graphs is not None:
                self._graphs.clear()
        self._widths = Widths(
            fills=max((len(binding.fills) for binding in bindings), default=0),
            ranks=self.bank.owners.numel(),
            folds=any(binding.folds for binding in bindings),
        )

    def drop_adapters(self) -> None:
        """Hold no adapter's weights, so that the next `serve` places all that are needed."""
        self.bank.rebuild(())
        if self._graphs is not None:
            self._graphs.clear()

    @torch.inference_mode()
    def run(self, step: Step) -> Tensor:
        """Logits `[L, vocab]` of the step's wanted rows, in the model's dtype."""
        if self._graphs is not None:
            logits = self._graphs.run(step, self._widths)
            if logits is not None:
                return logits
        return self._forward(step)

    def _forward(self, step: Step) -> Tensor:
        self._context.enter(step)
        try:
            return self.model(
                input_ids=step.input_ids,
                position_ids=step.positions,
                **{self._cache_argument: self._cache},
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

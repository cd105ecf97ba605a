"""The attention backend for GPUs: the same pages, and nothing that waits for the device.

The batch is built from vLLM's device tensors, whose addresses stay the same, so that a CUDA graph
that was captured with one batch can be replayed with another. The host knows the number of queries
exactly, and of the contexts' lengths a bound, which is enough to choose kernels.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from vllm.v1.attention.backend import AttentionCGSupport

from lragent.attention import AttentionBatch, LoraTables, PageViews
from lragent.attention import gpu as kernels
from lragent.attention.gpu.layer import Layer
from lragent.vllm.options import options_of
from lragent.vllm.transfer import send
from lragent.vllm.worker.attention import (
    LRAttentionBackend,
    LRAttentionImpl,
    LRMetadata,
    LRMetadataBuilder,
)
from lragent.vllm.worker.device_step import layout_of, prepare_step
from lragent.vllm.worker.pages import token_elements
from lragent.vllm.worker.split import Split


class LRDeviceMetadataBuilder(LRMetadataBuilder):
    """Builds the batch from device tensors."""

    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.ALWAYS

    def __init__(
        self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device
    ):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self._nobody = torch.full_like(self.state.slot_of_row, -1)
        if device.type == "cuda" and not self.state.warm:
            # When the cache has its memory: what the driver takes for kernels is not counted for
            # any other backend either.
            self.state.warm = True
            layer = vllm_config.compilation_config.static_forward_context[layer_names[0]]
            layer.impl.warm_up(layer, torch.zeros(1, dtype=kv_cache_spec.dtype, device=device))

    @classmethod
    def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> AttentionCGSupport:
        """See vLLM. A prompt that is two rows of attention fits no graph of a whole step."""
        options = options_of(vllm_config)
        if options is not None and options.splits:
            return AttentionCGSupport.UNIFORM_BATCH
        return cls._cudagraph_support

    def build(
        self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False
    ) -> LRMetadata:
        """See vLLM."""
        common = common_attn_metadata
        count = common.num_reqs
        bound = common.seq_lens_cpu_upper_bound
        lens = [common.max_seq_len] * count if bound is None else bound[:count].tolist()
        split = self.state.take_split(common.num_actual_tokens)
        if split is None:
            batch = _of_requests(common, lens, *self._readers(common.query_start_loc[:count]))
        else:
            batch = self._split_batch(common, split, lens)
        return LRMetadata(common.num_actual_tokens, common.slot_mapping, batch)

    def _split_batch(self, common: Any, split: Split, lens: list[int]) -> AttentionBatch:
        """The batch in which some requests are two rows, which is never part of a graph."""
        starts = np.cumsum(split.tokens, dtype=np.int32)
        starts = np.concatenate([np.zeros_like(starts[:1]), starts])
        rows, seq_lens = len(split.request), common.seq_lens
        request, behind = (
            torch.empty(rows, dtype=torch.int32, device=seq_lens.device) for _ in "rb"
        )
        cumulated = torch.empty(rows + 1, dtype=torch.int32, device=seq_lens.device)
        send([request, behind, cumulated], [split.request, split.behind, starts])
        adapters, slots = self._readers(cumulated[:rows])
        nobody = self._nobody[: common.num_reqs]
        return AttentionBatch(
            block_tables=common.block_table_tensor[request],
            cu_seqlens_q=cumulated,
            seq_lens=seq_lens[request] - behind,
            adapter_index=adapters,
            lr_slot=slots,
            max_query=int(split.tokens.max()),
            max_seq=common.max_seq_len,
            host_block_tables=[],
            host_cu_seqlens_q=starts.tolist(),
            host_seq_lens=(np.array(lens)[split.request] - split.behind).tolist(),
            host_adapter_index=[],
            host_lr_slot=self.state.host_slots,
            whole=_of_requests(common, lens, nobody, nobody),
        )

    def build_for_cudagraph_capture(self, common_attn_metadata: Any) -> LRMetadata:
        """See vLLM. Kernels are compiled and shared buffers grown before the capture begins."""
        metadata = self.build(0, common_attn_metadata)
        metadata.batch.seq_lens.fill_(1)
        self._rehearse(metadata)
        return metadata

    def _readers(self, first_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adapter's place and LR slot of each row, in buffers that stay where they are."""
        state, count = self.state, first_tokens.shape[0]
        places, slots = state.place_of_row[:count], state.slot_of_row[:count]
        if not state.resolve() and state.punica is not None:
            known = state.punica._token_lora_indices
            # A padded request begins behind the last token, whatever lies there; it reads nothing.
            places.copy_(known[first_tokens.long().clamp_(max=known.shape[0] - 1)])
        return places, slots

    def _rehearse(self, metadata: LRMetadata) -> None:
        """Run the graph's attention once, on a page of zeros."""
        spec, state = self.kv_cache_spec, self.state
        heads = self.vllm_config.model_config.get_num_attention_heads(
            self.vllm_config.parallel_config
        )
        rows, size = metadata.num_actual_tokens, spec.block_size
        device, dtype = metadata.batch.seq_lens.device, spec.dtype
        page = torch.zeros(1, spec.num_kv_heads, size, spec.head_size, dtype=dtype, device=device)
        width = state.options.slot_width(state.sizes.rank)
        lr = torch.zeros(1, size, state.options.num_slots, width, dtype=dtype, device=device)
        batch = metadata.batch
        rehearsal = AttentionBatch(
            block_tables=torch.zeros_like(batch.block_tables),
            cu_seqlens_q=batch.cu_seqlens_q,
            seq_lens=batch.seq_lens,
            adapter_index=torch.full_like(batch.adapter_index, -1),
            lr_slot=torch.full_like(batch.lr_slot, -1),
            max_query=batch.max_query,
            max_seq=batch.max_seq,
            host_block_tables=[],
            host_cu_seqlens_q=batch.host_cu_seqlens_q,
            host_seq_lens=batch.host_seq_lens,
            host_adapter_index=[],
            host_lr_slot=[],
        )
        query = torch.zeros(rows, heads, spec.head_size, dtype=dtype, device=device)
        layer = next(iter(state.layers.values()))
        with kernels.graph_safe():
            kernels.TritonBackend().attend(
                query,
                PageViews(page, page, lr),
                rehearsal,
                layer.tables,
                scale=spec.head_size**-0.5,
                rotation=state.rotation,
            )


def _of_requests(
    common: Any, lens: list[int], adapters: torch.Tensor, slots: torch.Tensor
) -> AttentionBatch:
    """The batch in which each request is one sequence; ``lens`` bound the contexts' lengths."""
    count = common.num_reqs
    return AttentionBatch(
        block_tables=common.block_table_tensor[:count],
        cu_seqlens_q=common.query_start_loc[: count + 1],
        seq_lens=common.seq_lens[:count],
        adapter_index=adapters,
        lr_slot=slots,
        max_query=common.max_query_len,
        max_seq=common.max_seq_len,
        host_block_tables=[],
        host_cu_seqlens_q=common.query_start_loc_cpu[: count + 1].tolist(),
        host_seq_lens=lens,
        host_adapter_index=[],
        host_lr_slot=[],
    )


class LRDeviceImpl(LRAttentionImpl):
    """The kernels themselves, without the checks of host lists, which are not there."""

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        pages: PageViews,
        tables: LoraTables,
        metadata: LRMetadata,
    ) -> None:
        """See `LRAttentionImpl`; what is launched is worked out for a step's first layer."""
        step, read = metadata.step, Layer.of(pages, tables, self.state.rotation)
        if step is None or step.layout != layout_of(q, k, v, out):
            places = metadata.slot_mapping
            inputs = self.state.write_inputs(places.shape[0])
            step = metadata.step = prepare_step(
                q, k, v, out, read, metadata.batch, inputs, places, self.scale
            )
        step.run(q, k, v, out, read)

    def measure(self, layer: Any, query: torch.Tensor) -> None:
        """Take the memory that kernels share, so that vLLM counts it."""
        contexts = self.state.sizes.max_rows * self.vllm_config.model_config.max_model_len
        kernels.reserve_scratch(
            contexts, self.num_kv_heads, self.head_size, query.dtype, query.device
        )

    def warm_up(self, layer: Any, query: torch.Tensor) -> None:
        """Run the kernels on a page of zeros, in the forms that this engine needs."""
        state, config = self.state, self.vllm_config
        width = state.options.slot_width(state.sizes.rank)
        elements = token_elements(self.num_kv_heads, self.head_size, state.options.num_slots, width)
        page = query.new_zeros(1, 1, config.cache_config.block_size, elements)
        lora = self.lora_of(layer)
        kernels.warm_up(
            self.pages_of(page),
            lora.tables,
            lora.down,
            rotation=state.rotation,
            heads=self.num_heads,
            columns=state.options.columns,
            scale=self.scale,
            max_tokens=state.sizes.max_tokens,
            max_requests=state.sizes.max_rows,
            max_context=config.model_config.max_model_len,
        )


class LRDeviceBackend(LRAttentionBackend):
    """What vLLM needs to know of the above."""

    @staticmethod
    def get_impl_cls() -> type[LRDeviceImpl]:
        """See vLLM."""
        return LRDeviceImpl

    @staticmethod
    def get_builder_cls() -> type[LRDeviceMetadataBuilder]:
        """See vLLM."""
        return LRDeviceMetadataBuilder

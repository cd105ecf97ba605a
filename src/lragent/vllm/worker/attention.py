"""The attention backend: Flash-LoRA-Attention over vLLM's pages."""

# pyright: reportMissingImports=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionImpl,
    AttentionMetadataBuilder,
    AttentionType,
    MultipleOf,
)

from lragent.attention import (
    AttentionBatch,
    LoraTables,
    PageViews,
    flash_lora_attention,
    write_pages,
)
from lragent.vllm.errors import PluginError
from lragent.vllm.options import options_of
from lragent.vllm.worker.pages import page_spec, views_of
from lragent.vllm.worker.rotation import key_rotation
from lragent.vllm.worker.state import WorkerState, make_state, state_of


@dataclass
class LRMetadata:
    """One step's batch, for all layers.

    Attributes:
        num_actual_tokens: tokens without padding.
        slot_mapping: ``[T]`` int64, where each token's row lies in the pages; -1 for padding.
        batch: the sequences.
        step: for backends that work out a step for all layers.
    """

    num_actual_tokens: int
    slot_mapping: Tensor
    batch: AttentionBatch
    step: Any = None


class LRMetadataBuilder(AttentionMetadataBuilder[LRMetadata]):
    """Builds the batch from vLLM's lengths and block tables, and the worker's slots."""

    def __init__(
        self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device
    ):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        state = state_of(vllm_config)
        assert state is not None, "layers are made before the builder"
        self.state = state

    def build(
        self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False
    ) -> LRMetadata:
        """See vLLM."""
        common = common_attn_metadata
        starts = common.query_start_loc_cpu.tolist()
        lens = common.seq_lens.tolist()
        size = self.kv_cache_spec.block_size
        count = common.num_reqs
        tables = common.block_table_tensor[:count].tolist()
        split = self.state.take_split(common.num_actual_tokens)
        if split is not None:
            tables = [tables[i] for i in split.request]
            lens = [lens[i] - n for i, n in zip(split.request, split.behind.tolist(), strict=True)]
            starts = [0, *split.tokens.cumsum().tolist()]
            count = len(tables)
        adapters, slots = _readers(self.state, starts, count)
        batch = AttentionBatch.build(
            [table[: -(-length // size)] for table, length in zip(tables, lens, strict=False)],
            [starts[i + 1] - starts[i] for i in range(count)],
            lens[:count],
            adapters,
            slots,
        )
        return LRMetadata(common.num_actual_tokens, common.slot_mapping, batch)


def _readers(state: WorkerState, starts: list[int], count: int) -> tuple[list[int], list[int]]:
    """Adapter's place and LR slot of each row, -1 for none."""
    if len(state.host_slots) != count:
        return [-1] * count, [-1] * count  # a run without requests
    state.resolve()
    places = state.punica._token_lora_indices
    return places[torch.tensor(starts[:count])].tolist(), state.host_slots


class LRAttentionImpl(AttentionImpl[LRMetadata]):
    """Attention of one layer. See vLLM for the arguments."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        **extra: Any,
    ):
        refused = {
            "ALiBi": alibi_slopes,
            "a sliding window": sliding_window,
            "a soft cap of the logits": logits_soft_cap,
            "KV sharing between layers": kv_sharing_target_layer_name,
            **{name: value for name, value in extra.items() if value},
        }
        for what, value in refused.items():
            if value:
                raise PluginError(f"lragent cannot serve a model with {what}; serve it without")
        if attn_type != AttentionType.DECODER:
            raise PluginError(f"lragent cannot serve {attn_type} attention; serve it without")
        config = get_current_vllm_config()
        options = options_of(config)
        assert options is not None, "the backend was chosen because the option is there"
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads or num_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.vllm_config = config
        self.state = make_state(config, options, config.device_config.device)
        if options.key_lora and self.state.rotation is None:
            device = config.device_config.device
            self.state.rotation = key_rotation(config, head_size, device)
        self._views: tuple[int, PageViews] | None = None
        self._tables: LoraTables | None = None

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: LRMetadata | None,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        """Write the tokens' rows, then attention of ``query [T, Hq, D]``, into ``output``.

        K and V_base are written where they are this request's, and the LR slots that it fills.
        """
        if attn_metadata is None:
            self.measure(layer, query)
            return output.zero_()
        tokens = attn_metadata.slot_mapping.shape[0]
        if key.shape[0] != tokens:
            key, value = key[:tokens], value[:tokens]
        shape = (attn_metadata.num_actual_tokens, self.num_heads, self.head_size)
        self.run(
            _rows(query, shape),
            key,
            value,
            _rows(output, shape),
            self._pages(kv_cache),
            self._lora_tables(layer),
            attn_metadata,
        )
        return output

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
        """Write ``k`` and ``v [T, Hk, D]``, then attention of ``q [T, Hq, D]`` into ``out``."""
        places = metadata.slot_mapping
        lr, write_base, rows, slots = self.state.write_inputs(places.shape[0])
        write_pages(k, v, lr, pages, places, write_base, rows, slots)
        flash_lora_attention(
            q, pages, metadata.batch, tables,
            scale=self.scale, rotation=self.state.rotation, out=out,
        )  # fmt: skip

    def measure(self, layer: Any, query: Tensor) -> None:
        """Called where vLLM measures how much memory a step takes beside the cache."""

    def _pages(self, kv_cache: Tensor) -> PageViews:
        if self._views is None or self._views[0] != kv_cache.data_ptr():
            self._views = (kv_cache.data_ptr(), self.pages_of(kv_cache))
        return self._views[1]

    def pages_of(self, kv_cache: Tensor) -> PageViews:
        """The blocks of ``kv_cache [pages, 1, tokens, elements]``."""
        options, v_rank = self.state.options, self.state.sizes.rank
        k_rank = options.slot_width(v_rank) - v_rank
        return views_of(
            kv_cache, self.num_kv_heads, self.head_size, options.num_slots, v_rank, k_rank
        )

    def lora_of(self, layer: Any) -> Any:
        """The LoRA layer whose low-rank products this attention layer reads.

        Raises:
            PluginError: vLLM made none.
        """
        lora = self.state.layers.get(layer.layer_name.rpartition(".")[0])
        if lora is None:
            raise PluginError(
                f"no LoRA layer of lragent belongs to {layer.layer_name}; remove target_modules "
                "from vLLM's LoRA options"
            )
        return lora

    def _lora_tables(self, layer: Any) -> LoraTables:
        tables = self._tables
        if tables is None:
            tables = self._tables = self.lora_of(layer).tables
        return tables


def _rows(tensor: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The first rows as ``[T, Hq, D]``; no work where it has that shape."""
    if tensor.shape == shape:
        return tensor
    return tensor[: shape[0]].view(shape)


class LRAttentionBackend(AttentionBackend):
    """What vLLM needs to know of the above; `backends` adds the width of the LR slots."""

    # One operator between the piecewise graphs instead of two.
    forward_includes_kv_cache_update: bool = True
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    supported_kv_cache_dtypes: ClassVar[list[Any]] = ["auto", "bfloat16", "float16"]
    platform_name: ClassVar[str] = "CPU_ATTN"
    slots: ClassVar[int] = 1
    width: ClassVar[int] = 8

    @classmethod
    def get_name(cls) -> str:
        """A name that vLLM knows."""
        return cls.platform_name

    @staticmethod
    def get_impl_cls() -> type[LRAttentionImpl]:
        """See vLLM."""
        return LRAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[LRMetadataBuilder]:
        """See vLLM."""
        return LRMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[Any]:
        """Any multiple of 16, so that vLLM never splits a page."""
        return [MultipleOf(16)]

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[Any, ...]:
        """Pages that are contiguous; with one head slot this one is."""
        from vllm.v1.kv_cache_interface import KVCacheLayout

        return (KVCacheLayout.LBHNC,)

    @classmethod
    def customize_spec(cls, spec: Any) -> Any:
        """Room for K, V_base and the LR slots in each page."""
        return page_spec(spec, cls.slots, cls.width)

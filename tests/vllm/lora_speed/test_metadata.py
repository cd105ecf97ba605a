"""The metadata of vLLM's LoRA kernels, worked out on the host, is what vLLM works out."""

# pyright: reportMissingImports=false

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase

from lragent.vllm.errors import PluginError
from lragent.vllm.lora_speed.metadata import HostMetadata, places_of
from lragent.vllm.lora_speed.touched import TouchedModules

pytestmark = pytest.mark.every_version

PLACES, TOKENS, VOCAB = 4, 40, 1000
META = (
    "active_lora_ids", "num_tokens_per_lora", "lora_token_start_loc", "no_lora_flag_cpu",
    "num_active_loras_cpu",
)  # fmt: skip
OF_TOKENS = ("token_lora_mapping", "token_indices_sorted_by_lora_ids")


class Wrapper(PunicaWrapperBase):
    """vLLM's wrapper for GPUs without its kernels."""

    def __init__(self, captured: list[int] | None = None):
        super().__init__(TOKENS, TOKENS, "cpu")
        self._embeddings_indices.zero_()
        self.token_mapping_meta, self.prompt_mapping_meta = (
            LoRAKernelMeta.make(PLACES, TOKENS, "cpu", captured) for _ in range(2)
        )

    def update_metadata(self, mapping: Any, *args: Any, **kwargs: Any) -> None:
        self.is_prefill = mapping.is_prefill
        self._update_base_metadata(mapping, *args)
        self.token_mapping_meta.prepare_tensors(self.token_lora_indices)
        self.prompt_mapping_meta.prepare_tensors(self.sampler_indices)


Wrapper.__abstractmethods__ = frozenset()  # the kernels, which nothing here calls


def batches(ids: list[int | None]) -> list[LoRAMapping]:
    choice = random.Random(0)
    wanted = [0, *(i for i in ids if i is not None)]
    lots = [choice.sample(wanted, choice.randint(1, len(wanted))) for _ in range(40)]
    rows = [
        [choice.choice(some) for _ in range(choice.randint(1, TOKENS))]
        for some in [[0], *([i] for i in wanted), *lots]
    ]
    return [
        LoRAMapping(tuple(row), tuple(row[: choice.randint(1, len(row))]), is_prefill=bool(n % 2))
        for n, row in enumerate(rows)
    ]


@pytest.mark.parametrize("captured", [None, [1, 2, 4], [2]])
def test_agrees_with_vllm(captured: list[int] | None):
    ids: list[int | None] = [7, None, 3, 2**31 + 5]
    stock, mine = Wrapper(captured), Wrapper(captured)
    touched = TouchedModules(PLACES, "cpu")
    metadata = HostMetadata(mine, touched.follow, touched.lists)
    for mapping in batches(ids):
        stock.update_metadata(mapping, ids, PLACES + 1, VOCAB)
        metadata.update(mapping, ids, PLACES + 1, VOCAB, some_day="more")
        assert mine.is_prefill == stock.is_prefill
        assert mine.indices_len == stock.indices_len
        for name in ("token_lora_indices", "sampler_indices", "sampler_indices_padded"):
            assert torch.equal(getattr(mine, name), getattr(stock, name)), name
        count = len(mapping.index_mapping)
        embeddings = mine._embeddings_indices[..., :count], stock._embeddings_indices[..., :count]
        assert torch.equal(*embeddings)
        for kind, places in (("token_mapping_meta", count),
                             ("prompt_mapping_meta", len(mapping.prompt_mapping))):  # fmt: skip
            a, b = getattr(mine, kind), getattr(stock, kind)
            for name in META:
                assert torch.equal(getattr(a, name), getattr(b, name)), name
            for name in () if b.no_lora_flag_cpu else OF_TOKENS:
                assert torch.equal(getattr(a, name)[:places], getattr(b, name)[:places]), name


def test_an_adapter_that_is_not_on_the_device_is_an_error():
    assert places_of([5, 0, 9], [9, 5]).tolist() == [1, -1, 0]
    for lost in (4, 7, 10):
        with pytest.raises(KeyError, match=f"no adapter {lost} on the device"):
            places_of([5, lost], [9, 5])
    with pytest.raises(KeyError, match="no adapter 5"):
        places_of([5], [None, None])


def test_another_wrapper_is_refused():
    wrapper = SimpleNamespace(**vars(Wrapper()))
    del wrapper.prompt_mapping_meta
    with pytest.raises(PluginError, match="has no prompt_mapping_meta; install a vLLM"):
        HostMetadata(wrapper, lambda active: active, torch.empty(0))

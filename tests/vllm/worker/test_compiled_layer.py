"""The LoRA layer as vLLM compiles it with the model: one graph for all numbers of tokens.

vLLM switches compilation off for LoRA on CPUs, so its compiler is not part of this.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.vllm.serving import Served, folders, sharing
from torch import Tensor

MOST = 64  # tokens of a step

pytestmark = pytest.mark.every_version


class Punica:
    """vLLM's LoRA kernels for GPUs as seen from outside, in operations that trace."""

    def __init__(self, indices: Tensor):
        self.indices = indices

    def add_shrink(self, y: Tensor, x: Tensor, weights: tuple[Tensor, ...], scale: float) -> None:
        places = self.indices[: x.shape[0]]
        for index, weight in enumerate(weights):
            product = torch.einsum("td,trd->tr", x, weight[places.clamp(min=0), 0])
            y[index] = torch.where((places < 0)[:, None], 0.0, product * scale)

    def add_expand(
        self, y: Tensor, x: Tensor, weights: tuple[Tensor, ...], slices: tuple[int, ...]
    ) -> None:
        places, start = self.indices[: x.shape[1]], 0
        for index, (weight, size) in enumerate(zip(weights, slices, strict=True)):
            product = torch.einsum("tr,tor->to", x[index], weight[places.clamp(min=0), 0])
            y[:, start : start + size] += product
            start += size


@pytest.mark.parametrize("policy", ["base+lr", "full"])
def test_one_graph_for_all_numbers_of_tokens(policy: str, root: Path):
    adapters = folders(root, "own")
    option = sharing(policy, adapters)
    with Served(
        root / "llama", adapters, option, max_num_batched_tokens=MOST, max_model_len=MOST
    ) as served:
        worker: Any = served.core.model_executor.driver_worker.worker
        layers = [block.self_attn.qkv_proj for block in worker.model_runner.model.model.layers]
        state = layers[0].state
        assert state.lr.shape[0] == MOST
        generator = torch.Generator().manual_seed(3)
        for layer in layers:
            layer.punica_wrapper = Punica(torch.arange(MOST) % 4 - 1)
            for weight in (*layer.lora_a_stacked, *layer.lora_b_stacked):
                weight.copy_(torch.randn(weight.shape, generator=generator))
        state.rows.copy_(torch.arange(state.rows.numel()).view_as(state.rows) % 5 - 1)
        state.fold.copy_(torch.arange(MOST)[:, None] % 2)

        def run(pieces: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> list[Tensor]:
            """Each layer's result, and what its attention would find, as vLLM cuts the graph."""
            found = []
            for piece in pieces:
                found += [piece(x), state.lr[: x.shape[0]].clone()]
            return found

        stock = [layer.apply for layer in layers]
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = [torch.compile(f, fullgraph=True, backend="aot_eager") for f in stock]
        for tokens in (MOST, 5, 17, 1):
            x = torch.randn(tokens, layers[0].down.shape[2], generator=generator)
            expected = run(stock, x)
            state.lr.fill_(7.0)
            if tokens > 1:
                torch._dynamo.mark_dynamic(x, 0)
            for got, wanted in zip(run(compiled, x), expected, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
            assert (state.lr[tokens:] == 7.0).all()
            # vLLM compiles for many tokens and runs the graph for one; Dynamo makes a second.
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            assert graphs == (1 if tokens > 1 else 2)

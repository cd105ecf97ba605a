"""vLLM's LoRA kernels pass over adapters without weights in a module, and over no others."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.adapters.factory import make_adapter
from tests.engine.models import prompt_of, tiny_model
from tests.vllm.serving import Ask, Served, sharing
from torch import Tensor
from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta

from lragent.vllm.lora_speed.metadata import prepare_on_host
from lragent.vllm.lora_speed.touched import TouchedModules

pytestmark = pytest.mark.every_version

PLACES, TOKENS = 3, 12


class Punica:
    """vLLM's wrapper for GPUs: its metadata, and its kernels by the arguments they are given."""

    def __init__(self, places: int = PLACES) -> None:
        self.token_mapping_meta = LoRAKernelMeta.make(places, TOKENS, "cpu")
        self.prompt_mapping_meta = LoRAKernelMeta.make(places, TOKENS, "cpu")
        self.indices_len: list[int | None] = [None] * 4
        self.is_prefill = False
        self._token_lora_indices = torch.empty(TOKENS, dtype=torch.long)
        self._sampler_indices = torch.empty(TOKENS, dtype=torch.long)
        self._sampler_indices_padded = torch.empty(TOKENS, dtype=torch.long)
        self._embeddings_indices = torch.empty(TOKENS, dtype=torch.long)
        self.products: list[int] = []  # adapters multiplied with, in order

    def serve(self, places: Sequence[int]) -> None:
        """A batch of tokens whose adapters, with ids from 1 on, are at these places."""
        ids = [place + 1 for place in places]
        mapping = SimpleNamespace(index_mapping=ids, prompt_mapping=ids, is_prefill=True)
        count = self.token_mapping_meta.active_lora_ids.shape[0] - 1
        update: Any = vars(self)["update_metadata"]  # what `prepare_on_host` puts there
        update(mapping, list(range(1, count + 1)), count + 1, 100)

    def add(self, y: Tensor, x: Tensor, weights: Tensor) -> None:
        """``y += x W`` of each token's adapter, as a graph does that was captured."""
        _, order, counts, starts, adapters, *_ = self.token_mapping_meta.meta_args(
            x.shape[0], False
        )
        for index, adapter in enumerate(adapters.tolist()):
            if adapter == -1:
                continue
            self.products.append(adapter)
            tokens = order[starts[index] : starts[index] + counts[index]].long()
            y[tokens] += x[tokens] @ weights[adapter]


def made() -> tuple[TouchedModules, Punica]:
    touched, punica = TouchedModules(PLACES, "cpu"), Punica()
    prepare_on_host(punica, touched.follow, touched.lists)
    return touched, punica


def test_lists_leave_out_adapters_without_weights():
    touched, punica = made()
    q, o = "layers.0.qkv_proj", "layers.0.o_proj"
    first, second = (touched.wrapper_for(path, punica) for path in (q, o))
    for place in range(PLACES):
        touched.mark(q, place, True)
    touched.mark(o, 1, True)
    touched.mark("layers.1.o_proj", 1, True)
    touched.mark(o, 1, False)  # the other layer's o_proj still has weights
    places = [2, 2, -1, 0, 1, 1, 1, 0, 2, -1, 1, 0]
    punica.serve(places)
    weights = torch.randn(PLACES, 4, 5)
    x = torch.randn(TOKENS, 4)
    for wrapper, adapters in ((first, [0, 1, 2]), (second, [1])):
        wrapper.products = []
        y = torch.zeros(TOKENS, 5)
        wrapper.add(y, x, weights)
        assert wrapper.products == adapters
        for token, place in enumerate(places):
            expected = x[token] @ weights[place] if place in adapters else torch.zeros(5)
            torch.testing.assert_close(y[token], expected)


def test_lists_stay_where_they_are_and_layers_of_a_kind_share_one():
    touched, punica = made()
    wrapper = touched.wrapper_for("layers.0.o_proj", punica)
    assert touched.wrapper_for("layers.7.o_proj", punica) is wrapper
    assert touched.wrapper_for("layers.0.down_proj", punica) is not wrapper
    mine = wrapper.token_mapping_meta
    assert mine.num_tokens_per_lora is punica.token_mapping_meta.num_tokens_per_lora
    at = mine.active_lora_ids.data_ptr()
    touched.mark("layers.0.o_proj", 0, True)
    assert touched.stale
    touched.refresh()  # before the first batch
    assert mine.active_lora_ids.tolist() == [-1] * 4
    punica.serve([0] * TOKENS)
    assert not touched.stale
    assert mine.active_lora_ids.data_ptr() == at
    assert mine.active_lora_ids.tolist() == [0, -1, -1, -1]
    touched.mark("layers.0.o_proj", 0, False)
    touched.refresh()
    assert mine.active_lora_ids.tolist() == [-1] * 4
    assert punica.token_mapping_meta.active_lora_ids.tolist() == [0, -1, -1, -1]


def test_only_modules_that_no_adapter_of_a_batch_touches_are_skipped():
    touched, punica = made()
    q, o, down = (
        touched.wrapper_for(f"layers.0.{name}", punica).token_mapping_meta
        for name in ("qkv_proj", "o_proj", "down_proj")
    )
    flags = [meta.no_lora_flag_cpu for meta in (q, o, down)]
    for place in range(PLACES):
        touched.mark("layers.0.qkv_proj", place, True)
    touched.mark("layers.0.o_proj", 1, True)

    def skipped(*places: int) -> list[bool]:
        punica.serve(places)
        return [bool(flag) for flag in flags]

    assert skipped(0, 0, 2, -1) == [False, True, True]
    assert skipped(0, 1, -1) == [False, False, True]
    assert skipped(-1, -1) == [True, True, True]
    assert skipped(1) == [False, False, True]
    touched.mark("layers.0.o_proj", 1, False)
    touched.mark("layers.0.down_proj", 1, True)
    touched.refresh()
    assert [bool(flag) for flag in flags] == [False, True, False]
    # The operators look at what they were compiled with, so the flags have to stay where they are.
    assert all(
        meta.no_lora_flag_cpu is flag for meta, flag in zip((q, o, down), flags, strict=True)
    )
    assert punica.token_mapping_meta.no_lora_flag_cpu is not flags[0]


def test_flags_are_on_the_host_whatever_the_default_device():
    with torch.device("meta"):
        touched = TouchedModules(PLACES, "meta")
    assert touched.lists.device.type == "meta"
    assert {flag.device.type for flag in touched.skips} == {"cpu"}


def test_wrappers_without_such_lists_are_used_as_they_are():
    punica = SimpleNamespace()
    assert TouchedModules(PLACES, "cpu").wrapper_for("layers.0.o_proj", punica) is punica


def test_an_engine_knows_what_its_adapters_touch(root: Path, tmp_path: Path):
    """Adapters come, are replaced in their place, and come back; one has weights everywhere."""
    model = tiny_model()
    wide = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    adapters = {
        "narrow": make_adapter(tmp_path / "narrow", model, rank=4, seed=1),
        "wide": make_adapter(tmp_path / "wide", model, rank=4, seed=2, targets=wide),
    }
    folders = {name: tmp_path / name for name in adapters}
    option = {**sharing("isolated", folders), "groups": []}
    with Served(root / "llama", folders, option, max_loras=1) as served:
        worker: Any = served.core.model_executor.driver_worker.worker
        blocks = worker.model_runner.model.model.layers
        layers = [x for b in blocks for x in (b.self_attn.qkv_proj, b.self_attn.o_proj,
                                              b.mlp.gate_up_proj, b.mlp.down_proj)]  # fmt: skip
        punica = Punica(places=1)
        made = worker.model_runner.lora_manager._adapter_manager.modules
        kinds = {name.rpartition(".")[2] for name in made}
        assert kinds == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
        touched = layers[0].touched
        prepare_on_host(punica, touched.follow, touched.lists)
        wrappers = [touched.wrapper_for(layer.base_layer.prefix, punica) for layer in layers]

        def seen() -> list[bool]:
            punica.serve([0] * TOKENS)
            metas = [wrapper.token_mapping_meta for wrapper in wrappers]
            read = [meta.active_lora_ids[0].item() == 0 for meta in metas]
            assert [not meta.no_lora_flag_cpu for meta in metas] == read
            return read

        # What CUDA graphs are captured with has weights everywhere: no kernel is left out of them.
        runner = worker.model_runner
        runner.lora_manager.remove_all_adapters()
        config, counts = runner.lora_config, np.array([TOKENS])
        with (
            runner.maybe_setup_dummy_loras(config),
            runner.maybe_select_dummy_loras(config, counts, num_active_loras=1),
        ):
            assert all(seen())
        for name, expected in (("narrow", [True, False, False, False]), ("wide", [True] * 4)) * 2:
            served.ask(Ask(name, prompt_of(20, 1)))
            assert seen() == expected * len(blocks)


def test_embeddings_and_the_output_head_have_no_lora_and_a_choice_is_kept(root: Path):
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins

    load_general_plugins()

    def targets(**settings: Any) -> list[str] | None:
        args: Any = {"model": str(root / "llama"), "enable_lora": True, "max_lora_rank": 8}
        config = EngineArgs(**args, **settings).create_engine_config()
        return config.lora_config.target_modules

    on: Any = {"additional_config": {"lragent": {}}}
    everything = targets(**on)
    assert everything is not None
    assert {"q_proj", "o_proj", "gate_proj", "down_proj"} < set(everything)
    assert not {"lm_head", "embed_tokens"} & set(everything)
    assert targets(**on, lora_target_modules=["q_proj", "v_proj"]) == ["q_proj", "v_proj"]
    assert targets() is None
    assert targets(additional_config={"lragent": {"lora_speed": False}}) is None


def test_without_the_option_vllms_lora_is_its_own(root: Path, tmp_path: Path):
    """All but the layer of q, k and v, which sharing needs; and answers are the same."""
    model = tiny_model()
    wide = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    make_adapter(tmp_path / "wide", model, rank=4, seed=2, targets=wide)
    folders, found = {"wide": tmp_path / "wide"}, []
    for on in (True, False):
        option = {**sharing("isolated", folders), "groups": [], "lora_speed": on}
        with Served(root / "llama", folders, option, max_loras=1) as served:
            worker: Any = served.core.model_executor.driver_worker.worker
            block = worker.model_runner.model.model.layers[0]
            layers = (block.self_attn.qkv_proj, block.self_attn.o_proj, block.mlp.gate_up_proj)
            ours = [type(layer).__module__.startswith("lragent.") for layer in layers]
            assert ours == [True, on, on]
            assert (layers[0].touched is not None) == on
            [answer] = served.ask(Ask("wide", prompt_of(20, 1)))
            found.append(answer.tokens)
    assert found[0] == found[1]

"""Which engines are started with what."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.common.adapters import ACTING, AGENTS, write_adapters
from benchmarks.common.dummy_weights import fill
from benchmarks.common.shapes import LLAMA_8B, TINY, shape_at, write_config
from benchmarks.serving.drive import Ask
from benchmarks.serving.engine import VllmEngine
from benchmarks.serving.plan import Setup, Step, Task, make_plan, sizes_of
from benchmarks.serving.policies import (
    engine_of,
    engines_of,
    is_guest,
    keeps_copies,
    plugin_option,
    uses_one_adapter,
    with_old,
)
from benchmarks.serving.sizes import (
    FULL,
    SMALL,
    kv_budget,
    setups_of,
    shared_settings,
    with_options,
)
from benchmarks.serving.workload import trace_length
from safetensors.numpy import load_file

from lragent.adapters import read_adapter
from lragent.vllm.options import parse_options


def test_who_shares_an_engine():
    names = ["isolated-one", "base+lr", "stock-one", "stock", "stock-targets", "isolated", "base"]
    assert engines_of(names) == {
        "base+lr": ["isolated-one", "base+lr", "isolated"],
        "stock": ["stock-one", "stock"],
        "stock-targets": ["stock-targets"],
        "base": ["base"],
    }
    assert [name for name in names if uses_one_adapter(name)] == ["isolated-one", "stock-one"]
    assert [name for name in names if is_guest(name)] == ["isolated-one", "isolated"]
    assert [n for n in names if keeps_copies(n)] == ["stock", "stock-targets", "isolated"]


def test_another_source_has_engines_of_its_own_beside_these():
    names = with_old(["stock", "base+lr", "isolated-one"])
    assert engines_of(names) == {
        "stock": ["stock"],
        "base+lr": ["base+lr", "isolated-one"],
        "old:base+lr": ["old:base+lr", "old:isolated-one"],
    }
    assert is_guest("old:isolated-one")
    assert uses_one_adapter("old:isolated-one")
    assert plugin_option("old:base+lr", {}) == plugin_option("base+lr", {})


def test_the_plugin_with_and_without_its_faster_lora():
    names = ["base+lr", "isolated-vllm-lora-one", "base+lr-vllm-lora"]
    assert engines_of(names) == {
        "base+lr": ["base+lr"],
        "base+lr-vllm-lora": ["isolated-vllm-lora-one", "base+lr-vllm-lora"],
    }
    assert plugin_option("base+lr-vllm-lora", {}) == {
        **(plugin_option("base+lr", {}) or {}), "lora_speed": False,
    }  # fmt: skip
    # Another source tree may not have the option.
    assert with_old(["base+lr-vllm-lora"]) == ["base+lr-vllm-lora"]


def test_engines_side_by_side_or_one_after_the_other():
    setups = setups_of(["handover", "trace"], TINY, SMALL, {}, 4)
    names = ["base+lr", "stock-one", "stock"]
    plan = make_plan(setups, names, together=False)
    assert [[(step.name, step.policies) for step in group] for group in plan] == [
        [("agents, base+lr", ["base+lr"])],
        [("agents, stock", ["stock-one", "stock"])],
        [("trace, base+lr", ["base+lr"])],
        [("trace, stock", ["stock-one", "stock"])],
    ]
    together = make_plan(setups, names, together=True)
    assert [[step.engine for step in group] for group in together] == [["base+lr", "stock"]] * 2


def test_traces_of_the_same_rank_need_no_engine_of_their_own():
    parts = ["handover", "workflow", "trace"]
    [both] = setups_of(parts, LLAMA_8B, FULL, {}, 2, trace_rank=16)
    assert both.parts == ("handover", "workflow", "trace")
    assert 66448 < both.settings["max_model_len"] <= 66448 + 512


def test_a_policy_for_the_hand_over_only():
    names = ["stock", "stock-one"]
    task = Task("stock", names, [], "", "m", {}, {}, {}, handover_only=["stock"])
    assert task.measured("handover") == names
    assert task.measured("workflow") == ["stock-one"]


def test_engines_side_by_side_have_room_for_what_they_run():
    setups = setups_of(["handover", "workflow", "tight"], LLAMA_8B, FULL, {}, 2)

    def room_of(setup: Setup, engines: int, *policies: str) -> int:
        step = Step(setup, "any", list(policies))
        return shared_settings(step, engines, LLAMA_8B, FULL, 2)["kv_cache_memory_bytes"]

    room, tight = (room_of(setup, 2, "isolated") for setup in setups)
    needed = 16 * (8192 + 9 * 64 + 8 * 200) * 131072
    assert needed * 1.01 < room < needed * 1.03
    # Two of them with weights of 15.3 GiB, activations and graphs fit on an H100.
    assert 2 * (room + (15.3 + 2.4) * 2**30) < 79 * 2**30
    assert tight == kv_budget(LLAMA_8B, FULL, 2)
    [trace] = setups_of(["trace"], LLAMA_8B, FULL, {}, 2)
    longest = trace_length(16384) * 131072
    assert room_of(trace, 3, "isolated", "base+lr") > 3 * longest
    assert 1.01 * longest < room_of(trace, 3, "stock-one", "base+lr") < 1.03 * longest


def test_settings_leave_room_for_the_longest_prompt():
    parts = ["handover", "workflow", "open", "trace", "tight"]
    agents, trace, tight = setups_of(parts, LLAMA_8B, FULL, {"dtype": "bfloat16"}, 2)
    assert agents.parts == ("handover", "workflow", "open")
    assert 32768 < agents.settings["max_model_len"] <= 32768 + 512
    assert agents.settings["max_lora_rank"] == 16
    assert 66448 < trace.settings["max_model_len"] <= 66448 + 512
    assert trace.settings["max_lora_rank"] == tight.settings["max_lora_rank"] == 8


def test_the_tight_budget_holds_one_copy_but_not_two():
    one = 8 * trace_length(4096) * 131072  # bytes of a token of Llama-3.1-8B in bf16
    assert one < kv_budget(LLAMA_8B, FULL, 2) < 2 * one
    tighter = with_options(FULL, tight_share=1.05)
    assert one < kv_budget(LLAMA_8B, tighter, 2) < kv_budget(LLAMA_8B, FULL, 2)


def test_sizes_survive_the_way_between_processes():
    assert sizes_of(json.loads(json.dumps(asdict(FULL)))) == FULL


@pytest.mark.parametrize("policy", ["isolated", "full", "base", "base+lr"])
def test_the_plugin_takes_the_option(policy: str):
    option = plugin_option(policy, {agent: f"/adapters/{agent}" for agent in AGENTS})
    parsed = parse_options(option)
    assert parsed.num_slots == (3 if policy == "base" else 1)
    assert plugin_option("stock", {}) is None


def test_adapters_share_the_a_of_v_proj_alone(tmp_path: Path):
    folders = write_adapters(tmp_path, TINY, 8)
    weights = {
        agent: load_file(path / "adapter_model.safetensors") for agent, path in folders.items()
    }
    for name, values in weights["plan"].items():
        shared = "v_proj.lora_A" in name
        for other in ("act", "reflect"):
            assert np.array_equal(values, weights[other][name]) == shared, name
    place = "base_model.model.model.layers.1.self_attn"
    assert weights["act"][f"{place}.q_proj.lora_A.weight"].shape == (8, 128)
    assert weights["act"][f"{place}.v_proj.lora_B.weight"].shape == (64, 8)


def test_a_written_config_gives_its_shape_back(tmp_path: Path):
    folder = write_config(tmp_path / LLAMA_8B.name, LLAMA_8B)
    assert shape_at(folder) == LLAMA_8B
    with pytest.raises(ValueError, match="no config"):
        shape_at(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="gpt2"):
        shape_at(tmp_path)


def test_dummy_weights_keep_the_size_of_activations():
    weight, norm, again = torch.empty(256, 512), torch.empty(512), torch.empty(256, 512)
    fill("model.layers.0.mlp.down_proj.weight", weight, 3)
    fill("model.norm.weight", norm, 4)
    fill("model.layers.0.mlp.down_proj.weight", again, 3)
    assert torch.equal(weight, again)
    assert torch.equal(norm, torch.ones(512))
    out = torch.nn.functional.linear(torch.randn(64, 512), weight)
    assert 1.0 < out.std() < 1.6


def test_adapters_that_act_from_a_page_find_it_in_the_prompt(tmp_path: Path):
    folder = write_adapters(tmp_path, TINY, 8, acting=True)["act"]
    assert read_adapter(folder).acting_tokens == (ACTING,)
    assert engine_of("neutral-page") == engine_of("neutral-page-one") == "neutral"
    engine = object.__new__(VllmEngine)
    for policy, expected in (
        ("neutral-page", [5, 6, ACTING, 8]), ("neutral", [5, 6, 7, 8]), ("base+lr", [5, 6, 7, 8])
    ):  # fmt: skip
        engine._policy = policy
        assert engine._prompt(Ask(1, [5, 6, 7, 8], 1, page=2)) == expected
        assert engine._prompt(Ask(1, [5, 6, 7, 8], 1)) == [5, 6, 7, 8]

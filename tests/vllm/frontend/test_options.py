"""The option is checked before the engine starts; every refusal says why."""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lragent.vllm.errors import PluginError
from lragent.vllm.frontend import engine_check
from lragent.vllm.frontend.engine_check import at, check_engine
from lragent.vllm.options import parse_options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"polcy": "base"}, r"lragent.polcy: .*did you mean 'policy'"),
        ({"policy": "shared"}, r"lragent.policy: Input should be 'isolated', 'neutral', 'full'"),
        ({"policy": "neutral", "groups": [["a"], ["b"]]}, r"include_base_model to false"),
        ({"groups": [[]]}, r"lragent.groups.0.members: .*at least 1"),
        ({"groups": "plan"}, r"lragent.groups: "),
        ({"groups": [["a", "b"], ["b"]]}, r"'b' is named 2 times"),
        ({"groups": [{"members": ["a"], "slot": 1}]}, r"lragent.groups.0.slot: "),
        ({"policy": "base", "groups": [["a", "b"]], "slots": 1}, r"policy base needs 2"),
        ({"slots": 65}, r"lragent.slots: .*less than or equal to 64"),
        ({"groups": [["plan"]], "adapters": {"plann": "x"}}, r"'plann', which is in no group"),
        ([], r"lragent: .*valid dictionary"),
        (
            {
                "groups": [
                    {"members": ["a"], "include_base_model": True},
                    {"members": ["b"], "include_base_model": True},
                ]
            },
            r"one group only",
        ),
    ],
)
def test_wrong_options(option: Any, message: str):
    with pytest.raises(PluginError, match=message):
        parse_options(option)


def test_the_base_model_is_in_a_neutral_group_unless_told_otherwise():
    groups = [["a"], {"members": ["b"], "include_base_model": False}]
    options = parse_options({"policy": "neutral", "groups": groups})
    assert [options.includes_base_model(group) for group in options.groups] == [True, False]
    options = parse_options({"policy": "base+lr", "groups": [["a"]]})
    assert not options.includes_base_model(options.groups[0])


def test_slots_follow_from_the_groups():
    assert parse_options({}).num_slots == 1
    assert parse_options({"policy": "base+lr", "groups": [["a", "b", "c"]]}).num_slots == 1
    assert parse_options({"policy": "base", "groups": [["a", "b"], ["c"]]}).num_slots == 2
    assert parse_options({"policy": "base", "groups": [["a"]], "slots": 5}).num_slots == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enable_lora": False}, "add --enable-lora"),
        ({"max_lora_rank": 1}, "--max-lora-rank below 8"),
        ({"fully_sharded_loras": True}, "--fully-sharded-loras"),
        ({"scheduling_policy": "priority"}, "priority scheduling"),
        ({"kv_cache_dtype": "fp8"}, "quantised KV cache"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2,
                                    "prompt_lookup_max": 3}},
            "speculative decoding",
        ),
        (
            {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both",
                                    "kv_connector_extra_config": {"shared_storage_path": "/x"}}},
            "KV connector",
        ),
        ({"kv_offloading_size": 1}, "--kv-offloading-size, .* do not tell which .*; leave it out"),
        ({"block_size": 24}, "multiple of 16"),
        ({"cpu_offload_gb": 1}, "--cpu-offload-gb"),
        ({"offload_group_size": 2}, "--offload-group-size"),
        ({"ubatch_size": 2, "all2all_backend": "deepep_low_latency"}, "--ubatch-size above 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_engines_that_are_refused(settings: dict[str, Any], message: str, root: Path):
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    args: dict[str, Any] = {"model": str(root / "llama"), "enable_lora": True, "max_lora_rank": 8}
    EngineArgs(**args).create_engine_config()
    with pytest.raises(ValueError, match=message):
        EngineArgs(**(args | settings), additional_config={"lragent": {}}).create_engine_config()


@pytest.mark.parametrize("name", ["VLLM_USE_RUST_FRONTEND", "VLLM_LORA_ENABLE_DUAL_STREAM"])
def test_switches_that_are_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    config: Any = SimpleNamespace(lora_config=SimpleNamespace())
    monkeypatch.setattr(engine_check, "CHECKS", ())
    check_engine(config)
    monkeypatch.setenv(name, "1")
    with pytest.raises(PluginError, match=f"{name}: .*; unset it"):
        check_engine(config)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("Olmo2ForCausalLM", "OLMo2: .* through transformers"),
        ("Olmo3ForCausalLM", "OLMo3: .* through transformers"),
        ("Phi3ForCausalLM", "Phi-3 and Phi-4: .* one A for q, k and v"),
        ("GptOssForCausalLM", "this model family; known: Llama.*"),
    ],
)
def test_families_that_are_refused(family: str, message: str, monkeypatch: pytest.MonkeyPatch):
    checks = [c for c in engine_check.CHECKS if c.path == "model_config.architecture"]
    monkeypatch.setattr(engine_check, "CHECKS", checks)
    for name in engine_check.ARCHITECTURES:
        check_engine(SimpleNamespace(model_config=SimpleNamespace(architecture=name)))
    with pytest.raises(PluginError, match=rf"with:\n  - {message}$"):
        check_engine(SimpleNamespace(model_config=SimpleNamespace(architecture=family)))


def test_a_field_that_is_gone_is_no_reason_to_let_its_feature_pass():
    with pytest.raises(PluginError, match="SimpleNamespace has no policy, which lragent must"):
        at(SimpleNamespace(scheduler_config=SimpleNamespace()), "scheduler_config.policy")
    assert at(SimpleNamespace(kv_events_config=None), "kv_events_config.enabled") is None

"""Another vLLM than those that the plugin knows is refused by name, and only with the option on."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from lragent.vllm.errors import PluginError
from lragent.vllm.frontend.config_check import config_hook
from lragent.vllm.versions.guard import changes, drift, hooks, misfit, replacements, unset

pytestmark = pytest.mark.every_version

KV_MANAGER = "vllm.v1.core.kv_cache_manager.KVCacheManager"
BACKEND = "vllm.v1.attention.backend.AttentionBackend"


def owner_of(path: str) -> tuple[Any, str]:
    """The module or class that holds a name."""
    module, _, last = path.rpartition(".")
    try:
        return importlib.import_module(module), last
    except ImportError:
        outer, name = owner_of(module)
        return getattr(outer, name), last


def test_this_vllm_is_known():
    assert changes() == []
    assert drift() is None


@pytest.mark.parametrize("version", ["0.28.1", "0.34.0rc1", "1.0.0"])
def test_other_versions_are_refused_by_name(version: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vllm.version.__version__", version)
    assert f"knows vLLM 0.29 to 0.33, and this is vLLM {version}" in (drift() or "")


@pytest.mark.parametrize("version", ["0.29.0+cpu", "0.31.2", "0.33.1.dev3+g12"])
def test_versions_of_the_window_are_known(version: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vllm.version.__version__", version)
    assert drift() is None


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (f"{KV_MANAGER}.create_kv_cache_blocks", "is gone"),
        (f"{KV_MANAGER}.pop_blocks_for_free", "is gone"),
        ("vllm.v1.engine.core.EngineCore.pin_lora", "is gone"),
        ("vllm.lora.utils._all_lora_classes", "is gone"),
        ("vllm.v1.core.sched.output.SchedulerOutput", "is gone"),
        ("vllm.lora.model_manager.LoRAModelManager.set_adapter_mapping", "is gone"),
    ],
)
def test_what_is_gone_is_named(path: str, line: str, monkeypatch: pytest.MonkeyPatch):
    owner, name = owner_of(path)
    monkeypatch.delattr(owner, name)
    assert f"{path} {line}" in changes()
    assert f"{path} {line}" in (drift() or "")


def test_what_is_called_by_other_names_is_named(monkeypatch: pytest.MonkeyPatch):
    path = f"{KV_MANAGER}.get_blocks"
    owner, name = owner_of(path)
    monkeypatch.setattr(owner, name, lambda self, request: None)
    assert changes() == [f"{path} takes no request_id"]


def test_attributes_that_are_gone_are_named(monkeypatch: pytest.MonkeyPatch):
    from vllm.v1.core import kv_cache_utils

    class Block:
        def __init__(self) -> None:
            self.block_id = self.ref_cnt = 0

    monkeypatch.setattr(kv_cache_utils, "KVCacheBlock", Block)
    assert changes() == ["vllm.v1.core.kv_cache_utils.KVCacheBlock has no block_hash"]


def test_options_of_vllm_that_are_gone_are_named():
    assert unset(["cache_config.cpu_offload_gb", "kv_events_config.on.at", "model_config"]) == [
        "vllm.config.CacheConfig has no cpu_offload_gb (cache_config.cpu_offload_gb)",
        "vllm.config.KVEventsConfig has no on (kv_events_config.on.at)",
    ]


def keyword(self: Any, request: Any, *, quickly: bool = False) -> None: ...


def swapped(self: Any, num_new_tokens: int, request: Any) -> None: ...


def more(self: Any, request: Any, limit: int = 0, depth: int = 0) -> None: ...


def spec_given(kv_cache_spec: Any, device: Any) -> list[Any]:
    return []


@pytest.mark.parametrize(
    ("path", "stock", "why"),
    [
        (f"{KV_MANAGER}.get_computed_blocks", keyword, "unexpected keyword argument 'quickly'"),
        (f"{KV_MANAGER}.get_computed_blocks", more, "with limit where lragent takes max_cache"),
        (f"{KV_MANAGER}.allocate_slots", swapped, "with num_new_tokens where lragent takes requ"),
        ("vllm.v1.engine.core.EngineCore.preprocess_add_request", more, "too many positional"),
        (f"{BACKEND}.get_supported_kernel_block_sizes", staticmethod(spec_given), "too many posi"),
    ],
)
def test_calls_that_no_longer_fit_are_named(
    path: str, stock: Any, why: str, monkeypatch: pytest.MonkeyPatch
):
    owner, name = owner_of(path)
    monkeypatch.setattr(owner, name, stock)
    [line] = [line for line in changes() if line.startswith(path)]
    assert why in line


def test_replacements_of_former_versions_do_not_fit():
    """Each of these broke an engine that the guard had let start."""
    assert misfit(lambda spec: [], lambda: [1]) is not None
    assert misfit(lambda spec: [], lambda spec=None: [1]) is None
    assert misfit(lambda self, request, most=None: 0, lambda self, request: 0) is not None


def test_every_hook_and_override_is_looked_at():
    names = {name for name, _, _ in replacements()}
    for hook in hooks():
        assert f"{hook.module}.{hook.name}" in names or hook.name == "_all_lora_classes"
    for name in (f"{BACKEND}.customize_spec", f"{KV_MANAGER}.free",
                 "vllm.v1.attention.backend.AttentionMetadataBuilder.build"):  # fmt: skip
        assert name in names


def test_an_unknown_vllm_refuses_the_option_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    stock = VllmConfig.__post_init__
    while hasattr(stock, "__wrapped__"):
        stock = stock.__wrapped__
    refuses = config_hook("this vLLM is unknown").make(stock)
    monkeypatch.setattr(VllmConfig, "__post_init__", refuses)

    def make(**settings: Any) -> Any:
        args = {"model": str(root / "llama"), "enable_lora": True, "max_lora_rank": 8, **settings}
        return EngineArgs(**args).create_engine_config()

    assert make().additional_config == {}
    with pytest.raises((PluginError, ValueError), match="this vLLM is unknown"):
        make(additional_config={"lragent": {}})

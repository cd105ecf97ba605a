"""Where the plugin enters vLLM's engine core. Every hook is stock where the option is missing."""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
import threading
from typing import Any

from lragent.sharing.report import Report
from lragent.vllm.core.plugin import CorePlugin
from lragent.vllm.core.request_keys import ATTRIBUTE, binding_hasher, lora_keys, stored_events
from lragent.vllm.options import options_of
from lragent.vllm.patching import Hook

_current = threading.local()  # binding of the request that is being made in this thread


def plugin_of(core: Any) -> CorePlugin | None:
    """The plugin's part of an engine core, None when it is not switched on."""
    return getattr(core.scheduler, "lragent_core", None)


def _scheduler_init(stock: Any) -> Any:
    @functools.wraps(stock)
    def init(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, vllm_config, *args, **kwargs)
        options = options_of(vllm_config)
        self.lragent_core = None if options is None else CorePlugin(vllm_config, options, self)

    return init


def _schedule(stock: Any) -> Any:
    @functools.wraps(stock)
    def schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = stock(self, *args, **kwargs)
        plugin = getattr(self, "lragent_core", None)
        if plugin is not None:
            output.lragent_message = plugin.take_message()
        return output

    return schedule


def _preprocess(stock: Any) -> Any:
    @functools.wraps(stock)
    def preprocess(self: Any, request: Any) -> Any:
        plugin = plugin_of(self)
        if plugin is None:
            return stock(self, request)
        _hash_with_bindings(self)
        bound, _current.binding = plugin.bind(request)
        made, wave = stock(self, bound)
        setattr(made, ATTRIBUTE, _current.binding)
        return made, wave

    return preprocess


def _hash_with_bindings(core: Any) -> None:
    """Once an engine. Not in its constructor, which runs already when vLLM loads plugins."""
    if core.request_block_hasher is not None and not hasattr(core, "lragent_hashes"):
        core.lragent_hashes = True
        core.request_block_hasher = binding_hasher(
            core.request_block_hasher,
            lambda request: _current.binding,
            core.scheduler.kv_cache_manager.block_pool.hash_block_size,
        )


def _add_lora(stock: Any) -> Any:
    @functools.wraps(stock)
    def add_lora(self: Any, lora_request: Any) -> bool:
        plugin = plugin_of(self)
        return stock(self, lora_request if plugin is None else plugin.load(lora_request))

    return add_lora


def _remove_lora(stock: Any) -> Any:
    @functools.wraps(stock)
    def remove_lora(self: Any, lora_id: int) -> bool:
        plugin = plugin_of(self)
        if plugin is None:
            return stock(self, lora_id)
        known = plugin.registry.content_of(lora_id) is not None
        _take_away(self, plugin, lora_id, functools.partial(stock, self))
        return known

    return remove_lora


def _take_away(core: Any, plugin: CorePlugin, lora_id: int, remove: Any) -> int:
    """Unload an id. Workers keep the weights while a request uses them, and drop them later."""
    content, freed = plugin.unload(lora_id)
    if content is not None and not any(
        request.lragent_binding.adapter is content for request in core.scheduler.requests.values()
    ):
        remove(content.int_id)
    return freed


def _list_loras(stock: Any) -> Any:
    @functools.wraps(stock)
    def list_loras(self: Any) -> set[int]:
        plugin = plugin_of(self)
        loaded = stock(self)
        return loaded if plugin is None else plugin.registry.ids_of(loaded)

    return list_loras


def _pin_lora(stock: Any) -> Any:
    @functools.wraps(stock)
    def pin_lora(self: Any, lora_id: int) -> bool:
        plugin = plugin_of(self)
        content = None if plugin is None else plugin.registry.content_of(lora_id)
        return stock(self, lora_id if content is None else content.int_id)

    return pin_lora


def _shutdown(stock: Any) -> Any:
    @functools.wraps(stock)
    def shutdown(self: Any) -> None:
        plugin = plugin_of(self) if getattr(self, "scheduler", None) is not None else None
        stock(self)
        if plugin is not None:
            plugin.store.close()

    return shutdown


def _report(self: Any) -> Report | None:
    """The plugin's numbers, for vLLM's utility calls; None when it is not switched on."""
    plugin = plugin_of(self)
    return None if plugin is None else plugin.report()


def _unload(self: Any, lora_id: int) -> int:
    """As ``remove_lora``; returns the bytes of KV cache that it freed."""
    plugin = plugin_of(self)
    if plugin is None:
        return 0
    return _take_away(self, plugin, lora_id, self.model_executor.remove_lora)


_SCHEDULER, _CORE = "vllm.v1.core.sched.scheduler", "vllm.v1.engine.core"

HOOKS = (
    Hook("vllm.v1.core.kv_cache_utils", "_gen_lora_extra_hash_keys", lora_keys),
    Hook("vllm.v1.core.block_pool", "BlockPool._build_block_stored_event", stored_events),
    Hook(_SCHEDULER, "Scheduler.__init__", _scheduler_init),
    Hook(_SCHEDULER, "Scheduler.schedule", _schedule),
    Hook(_CORE, "EngineCore.preprocess_add_request", _preprocess),
    Hook(_CORE, "EngineCore.add_lora", _add_lora),
    Hook(_CORE, "EngineCore.remove_lora", _remove_lora),
    Hook(_CORE, "EngineCore.list_loras", _list_loras),
    Hook(_CORE, "EngineCore.pin_lora", _pin_lora),
    Hook(_CORE, "EngineCore.shutdown", _shutdown),
)


def add_utilities() -> None:
    """Give vLLM's engine core what the frontend calls by name."""
    from vllm.v1.engine.core import EngineCore

    EngineCore.lragent_report = _report
    EngineCore.lragent_unload = _unload

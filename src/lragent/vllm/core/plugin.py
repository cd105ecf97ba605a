"""The plugin's part of one engine core."""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch

from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.cache.keys import KeyScope
from lragent.sharing.report import Report
from lragent.vllm.core.adapters import AdapterNotFoundError, AdapterStore, Content
from lragent.vllm.core.bindings import ServedBinding
from lragent.vllm.core.block_validity import BlockValidity
from lragent.vllm.core.bound_request import request_for
from lragent.vllm.core.model_check import check_adapter, facts_of
from lragent.vllm.core.registry import AdapterRegistry
from lragent.vllm.core.report import make_report
from lragent.vllm.errors import PluginError
from lragent.vllm.messages import StepMessage
from lragent.vllm.options import Options

logger = logging.getLogger("vllm.lragent")


class CorePlugin:
    """Adapters, groups and validity bits of an engine.

    Args:
        vllm_config: the engine's configuration.
        options: the plugin's options.
        scheduler: vLLM's scheduler, whose KV cache manager gets validity bits.
    """

    def __init__(self, vllm_config: Any, options: Options, scheduler: Any):
        self.options = options
        self.scheduler = scheduler
        manager = scheduler.kv_cache_manager
        spec = _only_spec(manager.kv_cache_config)
        rank = vllm_config.lora_config.max_lora_rank
        width = options.slot_width(rank)
        facts = facts_of(vllm_config)

        def check(adapter: Adapter) -> None:
            check_adapter(adapter, facts, vllm_config.lora_config, options.allow_other_base)

        scope = KeyScope(
            base_model=f"{vllm_config.model_config.model}@{vllm_config.model_config.revision}",
            dtype=str(spec.dtype).removeprefix("torch."),
            layout=f"vllm/1 slots={options.num_slots} width={width} page={spec.page_size_bytes}",
            tenant="",
            sharer="",
            policy="",
        )
        here = vllm_config.parallel_config.distributed_executor_backend != "ray"
        self.store = AdapterStore(rank, check, copies=here, alora=options.alora)
        self.registry = AdapterRegistry(options, self.store, scope)
        self.validity = BlockValidity(manager, spec.block_size)
        self.page_bytes = spec.page_size_bytes * _layers(manager.kv_cache_config)
        item = torch.empty(0, dtype=spec.dtype).element_size()
        self.slot_bytes = spec.block_size * width * item * _layers(manager.kv_cache_config)
        self.unloaded = 0
        self.unloaded_bytes = 0
        self._leaving: list[Content] = []

    def bind(self, request: Any) -> tuple[Any, ServedBinding]:
        """An ``EngineCoreRequest`` (a copy with an adapter) and what it is bound to.

        Raises:
            AdapterError: the adapter cannot be served.
        """
        lora = request.lora_request
        if lora is None:
            return request, self.registry.bind_base_model()
        if getattr(lora, "tensorizer_config_dict", None) is not None:  # vLLM before 0.32
            raise AdapterError(
                f"the adapter {lora.lora_name!r} comes from tensorizer, whose files lragent "
                "cannot check; give the folder of a PEFT adapter"
            )
        with _named(lora.lora_name):
            binding = self.registry.bind(
                lora.lora_name, lora.lora_int_id, lora.lora_path, again=lora.load_inplace
            )
        assert binding.adapter is not None
        if binding.base_reads and request.resumable:
            raise AdapterError(
                f"the adapter {lora.lora_name!r} acts in its turn only (policy neutral or aLoRA); "
                "where that begins cannot be told of a prompt that arrives in parts (streaming "
                "input), so send it as a whole"
            )
        bound = copy.copy(request)
        bound.lora_request = request_for(binding.adapter, lora)
        return bound, binding

    def load(self, lora: Any) -> Any:
        """Take in an adapter ahead of its requests; returns the request for the workers.

        Raises:
            LoRAAdapterNotFoundError: there is no such adapter; vLLM's server then answers 404.
            AdapterError: the adapter cannot be served.
        """
        from vllm.exceptions import LoRAAdapterNotFoundError

        try:
            with _named(lora.lora_name):
                content = self.registry.load(
                    lora.lora_name, lora.lora_int_id, lora.lora_path, again=lora.load_inplace
                )
        except AdapterNotFoundError as error:
            raise LoRAAdapterNotFoundError(lora.lora_name, lora.lora_path) from error
        for note in content.notes:
            logger.info("adapter %s: %s", lora.lora_name, note)
        return request_for(content, lora)

    def unload(self, int_id: int) -> tuple[Content | None, int]:
        """Take an id away: the content that workers may drop, and the bytes of pages freed."""
        removed = self.registry.unload(int_id)
        pages = self.validity.forget(removed.sharers)
        if removed.content is not None:
            self._leaving.append(removed.content)
        self._leaving = [c for c in self._leaving if not self.registry.collect(c)]
        self.unloaded += 1
        self.unloaded_bytes += pages * self.page_bytes
        logger.info(
            "unloaded adapter %d: %d pages, %d bytes of KV cache", int_id, pages,
            pages * self.page_bytes,
        )  # fmt: skip
        return removed.content, pages * self.page_bytes

    def take_message(self) -> StepMessage:
        """What the workers must know for the step that was just scheduled."""
        if self.options.debug:
            self.validity.check_integrity(self.scheduler.requests)
        return StepMessage(self.validity.take_admissions(), self.registry.rows.take_loads())

    def report(self) -> Report:
        """Numbers for the endpoint and the metrics."""
        return make_report(
            self.scheduler.kv_cache_manager.block_pool,
            self.validity,
            page_bytes=self.page_bytes,
            lr_bytes=self.options.num_slots * self.slot_bytes,
            slot_bytes=self.slot_bytes,
            unloaded={"adapters": self.unloaded, "bytes": self.unloaded_bytes},
            groups=self.registry.summary(),
        )


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Begin errors with the adapter's name: vLLM's server takes paths out of its answers."""
    try:
        yield
    except AdapterError as error:
        raise type(error)(f"adapter {name!r}: {error}") from error


def _only_spec(kv_cache_config: Any) -> Any:
    """The spec of the one group of layers that all have the same pages.

    Raises:
        PluginError: the model's layers differ.
    """
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        raise PluginError(
            f"lragent needs a model whose layers all have the same KV cache, this one has "
            f"{len(groups)} kinds; serve it without the option"
        )
    return groups[0].kv_cache_spec


def _layers(kv_cache_config: Any) -> int:
    return len(kv_cache_config.kv_cache_groups[0].layer_names)

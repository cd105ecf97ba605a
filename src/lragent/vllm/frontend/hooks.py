"""Where the plugin enters vLLM's HTTP server. Every hook is stock where the option is missing."""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
import logging
from typing import Any

from lragent.adapters.names import near_misses
from lragent.vllm.errors import PluginError
from lragent.vllm.frontend.engines import call_engines
from lragent.vllm.options import Options, options_of
from lragent.vllm.patching import Hook

logger = logging.getLogger("vllm.lragent")


def _add_request(stock: Any) -> Any:
    @functools.wraps(stock)
    def add_request(self: Any, request_id: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return stock(self, request_id, *args, **kwargs)
        except Exception:
            # With the engine core in this process the request is known to the output side by now,
            # which would wait for it for ever.
            self.abort_request([request_id])
            raise

    return add_request


def _options(models: Any) -> Options | None:
    return options_of(getattr(models.engine_client, "vllm_config", None))


def _init_static_loras(stock: Any) -> Any:
    import vllm.envs as envs

    @functools.wraps(stock)
    async def init_static_loras(self: Any) -> None:
        await stock(self)
        options = _options(self)
        if options is not None:
            check_members(options, self.lora_requests, bool(envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING))

    return init_static_loras


def check_members(options: Options, served: Any, may_come_later: bool) -> None:
    """Look for members of groups that the server does not serve.

    Raises:
        PluginError: there are some, and adapters cannot be loaded later.
    """
    for group in options.groups:
        for name in group.members:
            if name in served:
                continue
            problem = (
                f"lragent.groups names the adapter {name!r}, which is not among --lora-modules"
            )
            if not may_come_later:
                raise PluginError(problem + near_misses(name, served))
            logger.warning("%s; it can join when it is loaded", problem)


def _load(stock: Any) -> Any:
    @functools.wraps(stock)
    async def load_lora_adapter(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = await stock(self, request, *args, **kwargs)
        loaded = self.lora_requests.get(request.lora_name)
        if loaded is not None and _options(self) is not None:
            # vLLM before 0.33 leaves it set, so that each request would load the adapter again.
            loaded.load_inplace = False
        return result

    return load_lora_adapter


def _unload(stock: Any) -> Any:
    @functools.wraps(stock)
    async def unload_lora_adapter(self: Any, request: Any) -> Any:
        options = _options(self)
        known = self.lora_requests.get(request.lora_name)
        result = await stock(self, request)
        if options is None or known is None or not isinstance(result, str):
            return result
        core = self.engine_client.engine_core
        freed = (await call_engines(core, "lragent_unload", known.lora_int_id)).values()
        return f"{result} {sum(freed)} bytes of KV cache were freed."

    return unload_lora_adapter


_MODELS = "vllm.entrypoints.openai.models.serving"

HOOKS = (
    Hook(_MODELS, "OpenAIServingModels.init_static_loras", _init_static_loras),
    Hook(_MODELS, "OpenAIServingModels.load_lora_adapter", _load),
    Hook(_MODELS, "OpenAIServingModels.unload_lora_adapter", _unload),
    Hook("vllm.v1.engine.llm_engine", "LLMEngine.add_request", _add_request),
)

"""Checks the option where vLLM builds its configuration."""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from typing import Any

from lragent.vllm.errors import PluginError
from lragent.vllm.frontend.engine_check import LINEAR, check_engine
from lragent.vllm.measured import resolve_measured
from lragent.vllm.options import KEY, options_of
from lragent.vllm.patching import Hook


def config_hook(problem: str | None) -> Hook:
    """Checks every configuration that has the option.

    Args:
        problem: why the plugin cannot work with this vLLM; such configurations are then refused.
    """

    def make(stock: Any) -> Any:
        @functools.wraps(stock)
        def post_init(self: Any) -> None:
            stock(self)
            extra = self.additional_config
            if isinstance(extra, dict) and KEY in extra:
                self.additional_config = {**extra, KEY: resolve_measured(extra[KEY])}
            options = options_of(self)
            if options is None:
                return
            if problem is not None:
                raise PluginError(problem)
            check_engine(self)
            if options.lora_speed and self.lora_config.target_modules is None:
                self.lora_config.target_modules = list(LINEAR)
            # With all defaults and the version filled in: this enters the key of vLLM's compile
            # cache, so that no graph of another version or without the plugin is ever loaded.
            stamped = options.model_dump(mode="json", exclude={"adapters"})
            self.additional_config = {
                **self.additional_config,
                KEY: {**stamped, "adapters": dict(options.adapters)},
            }

        return post_init

    return Hook("vllm.config", "VllmConfig.__post_init__", make)

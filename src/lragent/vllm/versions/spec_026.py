"""vLLM 0.26 only: its specs compute the size of a page themselves, so a larger one is a subclass.

vLLM finds a spec's cache manager by its base classes, so that the subclass needs no registration;
registering it before vLLM's own would leave those out. Specs travel from the workers to the engine
core by pickle, which finds the class in this module.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec

from lragent.vllm.errors import PluginError


@dataclass(frozen=True, kw_only=True)
class LRFullAttentionSpec(FullAttentionSpec):
    """Pages of K and V_base, and ``lr_elements`` more elements a token."""

    lr_elements: int = 0

    @property
    def real_page_size_bytes(self) -> int:
        """Bytes of one page of one layer."""
        item = torch.empty(0, dtype=self.dtype).element_size()
        return super().real_page_size_bytes + self.block_size * self.lr_elements * item

    @classmethod
    def merge(cls, specs: Sequence[Any]) -> Any:
        """As vLLM's own, which knows nothing of the added field."""
        merged = super().merge(specs)
        [lr_elements] = {spec.lr_elements for spec in specs}
        return replace(merged, lr_elements=lr_elements)


def widened(spec: Any, lr_elements: int) -> LRFullAttentionSpec:
    """``spec`` with that many more elements a token.

    Raises:
        PluginError: the layer's cache is of another kind.
    """
    if type(spec) is not FullAttentionSpec:
        raise PluginError(
            f"lragent cannot serve a layer whose KV cache is a {type(spec).__name__}; serve the "
            "model without the option"
        )
    known = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return LRFullAttentionSpec(**known, lr_elements=lr_elements)


def get_kv_cache_spec(stock: Any) -> Any:
    """Wraps ``Attention.get_kv_cache_spec``: layers with the plugin's backend get its pages."""

    @functools.wraps(stock)
    def layers_spec(self: Any, vllm_config: Any) -> Any:
        spec = stock(self, vllm_config)
        customize = getattr(self.attn_backend, "customize_spec", None)  # none of vLLM's has it
        return spec if spec is None or customize is None else customize(spec)

    return layers_spec

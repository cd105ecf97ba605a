"""What the checks of adapters need to know of a base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFacts:
    """A base model as adapters see it.

    Attributes:
        name: name or path of the model.
        linear_shapes: ``(d_in, d_out)`` of its linear layers by module name.
        has_key_norm: whether it normalises keys after k_proj (Qwen3).
    """

    name: str
    linear_shapes: Mapping[str, tuple[int, int]]
    has_key_norm: bool

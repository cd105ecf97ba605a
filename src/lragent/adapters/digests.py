"""Content digests: SHA-256 over typed, length-framed fields.

A digest covers what changes the result and nothing else: no path, no name of an adapter, no file
metadata. Each field carries its type and its length, so that no two different contents can give
the same byte string.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lragent.adapters.model import CACHED_PROJECTIONS, LoraModule

_SCHEMA = 1


class ContentHash:
    """SHA-256 over a sequence of typed, length-framed fields that starts with a purpose."""

    def __init__(self, purpose: str) -> None:
        self._hash = hashlib.sha256()
        self.text("lragent").text(purpose).integer(_SCHEMA)

    def _field(self, kind: bytes, data: bytes | memoryview) -> ContentHash:
        self._hash.update(kind + struct.pack("<Q", len(data)))
        self._hash.update(data)
        return self

    def text(self, value: str) -> ContentHash:
        """Add a string."""
        return self._field(b"s", value.encode())

    def integer(self, value: int) -> ContentHash:
        """Add an integer of at most 64 bits."""
        return self._field(b"i", struct.pack("<q", value))

    def number(self, value: float) -> ContentHash:
        """Add a float by its 64 bits."""
        return self._field(b"f", struct.pack("<d", value))

    def tensor(self, value: Tensor) -> ContentHash:
        """Add dtype, shape and bytes of a CPU tensor, in its own dtype."""
        self.text(str(value.dtype)).integer(value.dim())
        for size in value.shape:
            self.integer(size)
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return self._field(b"t", flat.numpy().data)

    def hexdigest(self) -> str:
        """The digest as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def _ordered(modules: Iterable[LoraModule]) -> list[LoraModule]:
    return sorted(modules, key=lambda module: (module.layer, module.name))


def adapter_digest(
    modules: Mapping[str, LoraModule], invocation_tokens: Sequence[int] | None = None
) -> str:
    """Identity of an adapter: names of the adapted layers, scaling, rank, and both tensors.

    Alpha, rsLoRA and the patterns enter by the rank and scaling that they give each module, so
    two configs that mean the same have the same digest. So do an aLoRA adapter's invocation tokens,
    since the same tensors compute something else without them.
    """
    content = ContentHash("adapter").integer(len(modules))
    for module in _ordered(modules.values()):
        content.text(module.name).integer(module.rank).number(module.scaling)
        content.tensor(module.a).tensor(module.b)
    if invocation_tokens is not None:
        content.text("aLoRA")
        for token in invocation_tokens:
            content.integer(token)
    return content.hexdigest()


def down_projection_digest(modules: Mapping[str, LoraModule], *projections: str) -> str | None:
    """Digest of the A matrices of the given projections over all layers; None without any."""
    chosen = _ordered(m for m in modules.values() if m.projection in projections)
    if not chosen:
        return None
    content = ContentHash("down-projection").integer(len(chosen))
    for module in chosen:
        content.text(module.name).tensor(module.a)
    return content.hexdigest()


def a_digests(modules: Mapping[str, LoraModule]) -> dict[str, str]:
    """For each projection present, the digest of its A matrices over all layers."""
    projections = sorted({module.projection for module in modules.values()})
    digests = ((name, down_projection_digest(modules, name)) for name in projections)
    return {name: digest for name, digest in digests if digest is not None}


def slot_digest(modules: Mapping[str, LoraModule]) -> str | None:
    """Digest of what an LR slot depends on: A of ``k_proj`` and ``v_proj``; None without either."""
    return down_projection_digest(modules, *CACHED_PROJECTIONS)

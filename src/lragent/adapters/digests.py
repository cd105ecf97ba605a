"""Content digests of adapters.

A digest covers what changes the result and nothing else: no path, no name of an adapter, no file
metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lragent.adapters.model import CACHED_PROJECTIONS, LoraModule
from lragent.content_hash import ContentHash


def add_tensor(content: ContentHash, value: Tensor) -> ContentHash:
    """Add dtype, shape and bytes of a tensor to a hash, in its own dtype."""
    content.text(str(value.dtype)).integer(value.dim())
    for size in value.shape:
        content.integer(size)
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return content.field(b"t", flat.numpy().data)


def _ordered(modules: Iterable[LoraModule]) -> list[LoraModule]:
    return sorted(modules, key=lambda module: (module.layer, module.name))


def adapter_digest(
    modules: Mapping[str, LoraModule],
    invocation_tokens: Sequence[int] | None = None,
    acting_tokens: Sequence[int] | None = None,
) -> str:
    """Identity of an adapter: names of the adapted layers, scaling, rank, and both tensors.

    Alpha, rsLoRA and the patterns enter by the rank and scaling that they give each module, so
    two configs that mean the same have the same digest. An aLoRA adapter's invocation tokens, and
    the tokens from which a sidecar lets an adapter act, enter too: without them the same tensors
    compute something else.
    """
    content = ContentHash("adapter").integer(len(modules))
    for module in _ordered(modules.values()):
        content.text(module.name).integer(module.rank).number(module.scaling)
        add_tensor(add_tensor(content, module.a), module.b)
    for kind, tokens in (("aLoRA", invocation_tokens), ("acting tokens", acting_tokens)):
        if tokens is not None:
            content.text(kind)
            for token in tokens:
                content.integer(token)
    return content.hexdigest()


def down_projection_digest(modules: Mapping[str, LoraModule], *projections: str) -> str | None:
    """Digest of the A matrices of the given projections over all layers; None without any."""
    chosen = _ordered(m for m in modules.values() if m.projection in projections)
    if not chosen:
        return None
    content = ContentHash("down-projection").integer(len(chosen))
    for module in chosen:
        add_tensor(content.text(module.name), module.a)
    return content.hexdigest()


def a_digests(modules: Mapping[str, LoraModule]) -> dict[str, str]:
    """For each projection present, the digest of its A matrices over all layers."""
    projections = sorted({module.projection for module in modules.values()})
    digests = ((name, down_projection_digest(modules, name)) for name in projections)
    return {name: digest for name, digest in digests if digest is not None}


def slot_digest(modules: Mapping[str, LoraModule]) -> str | None:
    """Digest of what an LR slot depends on: A of ``k_proj`` and ``v_proj``; None without either."""
    return down_projection_digest(modules, *CACHED_PROJECTIONS)

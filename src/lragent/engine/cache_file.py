"""The cached pages of a prompt in a safetensors file.

Format 1. Tensors: `tokens` int64 `[T]`, and for each layer `N.k` and `N.v`
`[pages, kv_heads, page_size, head_dim]` and `N.lr` `[pages, page_size, slots, width]`. Metadata:
the scope of the page keys without the tenant, the last page's key, and the content digests of the
saved LR slots.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lragent.adapters.model import Adapter
from lragent.cache.client import CacheClient
from lragent.cache.errors import OutOfPages
from lragent.cache.keys import page_key
from lragent.cache.manager import CacheManager
from lragent.engine.core import EngineCore
from lragent.engine.errors import BudgetError, CacheFileError
from lragent.engine.kv_storage import KVStorage
from lragent.files import replaced
from lragent.sharing import Binding

FORMAT = "lragent-cache/1"
_NAMES = {  # of what must be the same, in the file and to its reader
    "base_model": "base model",
    "dtype": "dtype",
    "layout": "page layout",
    "sharer": "adapter or sharing group",
    "policy": "sharing policy",
}
Find = Callable[[], tuple[Binding[Adapter], CacheClient]]


@dataclass(frozen=True)
class SavedPages:
    """Whole pages of a prompt, on the CPU; `slots` are the digests of their LR slots."""

    tokens: list[int]
    slots: list[str]
    tensors: dict[str, Tensor]


def copy_pages(
    cache: CacheManager,
    storage: KVStorage,
    client: CacheClient,
    binding: Binding[Adapter],
    tokens: Sequence[int],
) -> SavedPages:
    """The pages that the cache has of `tokens`, and of their LR slots those that are complete."""
    lease = cache.admit(client, tokens)
    try:
        pages = torch.tensor(lease.pages, dtype=torch.int64, device=storage.views[0].k.device)
        complete = {
            slot
            for slot, first in zip(client.fills, lease.fill_from, strict=True)
            if first >= lease.base_tokens
        }
        fills = [fill for fill in binding.fills if fill.slot in complete]
        slots = [fill.slot for fill in fills]
        tensors: dict[str, Tensor] = {}
        for layer, views in enumerate(storage.views):
            tensors[f"{layer}.k"] = views.k[pages].cpu().contiguous()
            tensors[f"{layer}.v"] = views.v[pages].cpu().contiguous()
            if views.lr is not None and slots:
                tensors[f"{layer}.lr"] = views.lr[pages][:, :, slots].cpu().contiguous()
        digests = [str(fill.adapter.slot_digest) for fill in fills]
        return SavedPages(list(tokens[: lease.base_tokens]), digests, tensors)
    finally:
        cache.release(lease)


def put_pages(
    cache: CacheManager,
    storage: KVStorage,
    client: CacheClient,
    binding: Binding[Adapter],
    saved: SavedPages,
) -> None:
    """Put saved pages where the cache lacks them, to be found from now on.

    Raises:
        BudgetError: too few pages are free or idle; nothing is changed.
    """
    places = {str(f.adapter.slot_digest): f.slot for f in binding.fills}
    known = [(i, places[digest]) for i, digest in enumerate(saved.slots) if digest in places]
    fills = tuple(slot for _, slot in known)
    writer = replace(client, slot=client.slot if client.slot in fills else None, fills=fills)
    lease = cache.admit(writer, saved.tokens)
    try:
        try:
            cache.extend(lease, len(saved.tokens))
        except OutOfPages as error:
            raise BudgetError(
                f"the file's {len(saved.tokens)} tokens do not fit into the pages that are free "
                "now; raise kv_bytes, or wait until less runs"
            ) from error
        size = cache.page_size
        pages = torch.tensor(lease.pages, dtype=torch.int64, device=storage.views[0].k.device)
        new = lease.base_tokens // size
        for layer, views in enumerate(storage.views):
            views.k[pages[new:]] = saved.tensors[f"{layer}.k"][new:].to(views.k)
            views.v[pages[new:]] = saved.tensors[f"{layer}.v"][new:].to(views.v)
            for (index, slot), fill_from in zip(known, lease.fill_from, strict=True):
                assert views.lr is not None
                first = fill_from // size
                rows = saved.tensors[f"{layer}.lr"][first:, :, index]
                views.lr[pages[first:], :, slot] = rows.to(views.lr)
        cache.commit(lease, saved.tokens, len(saved.tokens))
    finally:
        cache.release(lease)


class CacheFiles:
    """Saves and loads the pages of prompts.

    `find` gives the current binding and client of an adapter.
    """

    def __init__(self, core: EngineCore, cache: CacheManager, storage: KVStorage):
        self._core = core
        self._cache = cache
        self._storage = storage

    def save(self, path: Path, tokens: Sequence[int], find: Find) -> int:
        """Write what the cache has of `tokens`; returns how many of them that is.

        Raises:
            ValueError: not one page.
            OSError: the file cannot be written.
        """
        size = self._storage.layout.page_size
        with self._core.books():
            binding, client = find()
            context = binding.context_tokens(tokens) if binding.base_reads else None
            saved = copy_pages(self._cache, self._storage, client, binding, tokens[:context])
        if not saved.tokens:
            raise ValueError(
                f"not one whole page of {size} tokens of this prompt is in the cache; give a "
                "longer prompt"
            )
        metadata = {
            **self._facts(client),
            "format": FORMAT,
            "key": _last_key(client, saved.tokens, size),
            "slots": json.dumps(saved.slots),
        }
        tensors = {"tokens": torch.tensor(saved.tokens, dtype=torch.int64), **saved.tensors}
        with replaced(path) as temporary:
            save_file(tensors, temporary, metadata)
        return len(saved.tokens)

    def load(self, path: Path, find: Find) -> int:
        """Put a file's pages into the cache; returns their tokens.

        Raises:
            CacheFileError: no such file, a damaged one, or one whose page keys are not those of
                its tokens here.
            BudgetError: too few pages are free or idle.
        """
        _, client = find()
        saved = self._read(path, client)
        with self._core.books():
            binding, now = find()
            if now.scope != client.scope:
                raise CacheFileError(f"the adapter was replaced while {path} was read")
            put_pages(self._cache, self._storage, now, binding, saved)
        return len(saved.tokens)

    def _facts(self, client: CacheClient) -> dict[str, str]:
        return {name: getattr(client.scope, name) for name in _NAMES}

    def _read(self, path: Path, client: CacheClient) -> SavedPages:
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CacheFileError(f"{path} cannot be read: {error}") from error
        if facts.get("format") != FORMAT:
            raise CacheFileError(f"{path} is no saved cache of this version; save it again")
        try:
            tokens = tensors.pop("tokens").tolist()
            slots = [str(digest) for digest in json.loads(facts["slots"])]
            key = _last_key(client, tokens, self._storage.layout.page_size)
        except (KeyError, TypeError, ValueError) as error:
            raise CacheFileError(f"{path} is damaged ({error!r}); save it again") from error
        here = self._facts(client)
        others = [what for name, what in _NAMES.items() if facts.get(name) != here[name]]
        if others:
            raise CacheFileError(
                f"{path} was saved for another {' and '.join(dict.fromkeys(others))}; save it "
                "again with what is loaded here"
            )
        if facts.get("key") != key:
            raise CacheFileError(
                f"{path} was saved with another cache_salt, or its tokens were changed"
            )
        _check_tensors(path, tensors, len(tokens), len(slots), self._storage)
        return SavedPages(tokens, slots, tensors)


def _last_key(client: CacheClient, tokens: Sequence[int], size: int) -> str:
    """The key of the last page, which covers all tokens before it."""
    if not tokens or len(tokens) % size:
        raise ValueError(f"{len(tokens)} tokens are no whole pages")
    key = client.root
    for start in range(0, len(tokens), size):
        key = page_key(key, tokens[start : start + size])
    return key.hex()


def _check_tensors(
    path: Path, tensors: dict[str, Tensor], tokens: int, slots: int, storage: KVStorage
) -> None:
    expected: dict[str, Any] = {}
    for layer, views in enumerate(storage.views):
        pages = tokens // views.page_size
        expected[f"{layer}.k"] = expected[f"{layer}.v"] = (pages, *views.k.shape[1:])
        if slots and views.lr is not None:
            expected[f"{layer}.lr"] = (pages, views.page_size, slots, views.lr.shape[3])
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        raise CacheFileError(f"{path} is damaged: its tensors are not those of its pages")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise CacheFileError(f"{path} is damaged: it holds NaN or Inf")

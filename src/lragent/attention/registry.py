"""The three attention operations, and which implementation serves them.

Implementations are imported when first chosen, so `lragent.attention` needs no Triton. An
automatic choice may fall back, and the log says once why; an explicit choice raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor

from lragent.attention.backend import Backend
from lragent.attention.base import (
    AttentionBatch,
    KeyRotation,
    LoraTables,
    PageViews,
    UnsupportedError,
)
from lragent.attention.checks import check_attention

logger = logging.getLogger(__name__)

Implementation = Literal["auto", "reference", "torch", "triton"]


def _reference() -> Backend:
    from lragent.attention.naive import NaiveBackend

    return NaiveBackend()


def _torch() -> Backend:
    from lragent.attention.cpu import TorchBackend

    return TorchBackend()


def _triton() -> Backend:
    from lragent.attention.gpu import TritonBackend

    return TritonBackend()


_BACKENDS: dict[str, Callable[[], Backend]] = {
    "reference": _reference,
    "torch": _torch,
    "triton": _triton,
}
_loaded: dict[str, Backend] = {}
_cannot_load: dict[str, str] = {}
_told: set[str] = set()


def flash_lora_attention(
    q: Tensor,
    pages: PageViews,
    batch: AttentionBatch,
    tables: LoraTables,
    *,
    scale: float,
    sliding_window: int | None = None,
    rotation: KeyRotation | None = None,
    implementation: Implementation = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """Causal paged attention that applies each sequence's adapter inside: ``O = P V + (P z) B``.

    Query i of a sequence with n queries and L tokens sits at position ``L - n + i`` and sees the
    tokens up to its own, the last ``sliding_window`` of them when that is given. With z the LR row
    of slot ``batch.lr_slot``, ``K = k + RoPE(z_k B_k)`` and ``V = v + z_v B_v``. A sequence without
    adapter or slot gets plain attention and its LR block is never read. Rows of a page beyond the
    sequence's tokens are never used either; they may hold anything, NaN too.

    Args:
        q: ``[T, Hq, D]`` packed queries after RoPE, in the order of ``batch``.
        pages: the layer's pages; dtype as q's.
        batch: the sequences.
        tables: the layer's up-projections with scaling folded in.
        scale: factor of the scores, usually ``D ** -0.5``.
        sliding_window: tokens that a query sees, itself included; None for all.
        rotation: needed when ``tables.k_b`` is given; at least ``batch.max_seq`` positions.
        implementation: "auto" takes triton on CUDA where it can be imported, else torch.
        out: ``[T, Hq, D]`` to write into; default: a new tensor.

    Returns:
        ``[T, Hq, D]`` in q's dtype.

    Raises:
        ValueError: arguments that do not fit each other, or an unknown implementation.
        ImportError, UnsupportedError: an implementation chosen by name is missing or refuses.
    """
    check_attention(
        q, pages, batch, tables, sliding_window=sliding_window, rotation=rotation, out=out
    )

    def attend(backend: Backend) -> Tensor:
        return backend.attend(
            q, pages, batch, tables, scale=scale, sliding_window=sliding_window,
            rotation=rotation, out=out,
        )  # fmt: skip

    return _run("flash_lora_attention", attend, implementation, q.device)


def write_pages(
    k: Tensor,
    v: Tensor,
    lr: Tensor | None,
    pages: PageViews,
    slot_mapping: Tensor,
    write_base: Tensor,
    lr_rows: Tensor,
    lr_slots: Tensor,
    implementation: Implementation = "auto",
) -> None:
    """Store the new tokens' K, V_base and LR rows in their pages, in place.

    Args:
        k: ``[T, Hk, D]`` keys after RoPE, without adapter term.
        v: ``[T, Hk, D]`` base values.
        lr: ``[T, n, W]`` LR rows as `project_lr` returns them, or None to write none.
        pages: the layer's pages.
        slot_mapping: ``[T]`` int64, ``page * page_size + row``; -1 skips the token. No two tokens
            may name the same place.
        write_base: ``[T]`` bool; False leaves the K and V_base rows of the token as they are.
        lr_rows: ``[T, S]`` int32, row of ``lr[t]`` for up to S slots a token; -1 writes zeros.
        lr_slots: ``[T, S]`` int32, the slot that each of these rows goes to; -1 skips the row.
        implementation: as in `flash_lora_attention`.

    Raises:
        ValueError: an unknown implementation.
        ImportError, UnsupportedError: an implementation chosen by name is missing or refuses.
    """

    def write(backend: Backend) -> None:
        backend.write(k, v, lr, pages, slot_mapping, write_base, lr_rows, lr_slots)

    _run("write_pages", write, implementation, pages.k.device)


def project_lr(
    x: Tensor, a: Tensor, index: Tensor, implementation: Implementation = "auto"
) -> Tensor:
    """The LR rows ``z = x A`` of each token, by each A that one of its slots needs.

    Args:
        x: ``[T, d]`` hidden states that enter k_proj and v_proj.
        a: ``[n, W, d]`` down-projections, the value part's rows first; unused rows are zero.
        index: ``[T, S]`` int32, row of ``a`` for each of the token's S slots; -1 for none.
        implementation: as in `flash_lora_attention`.

    Returns:
        ``[T, n, W]`` in x's dtype. Rows that the token's entries of ``index`` do not name may hold
        anything.

    Raises:
        ValueError: an unknown implementation.
        ImportError, UnsupportedError: an implementation chosen by name is missing or refuses.
    """

    def project(backend: Backend) -> Tensor:
        return backend.project(x, a, index)

    return _run("project_lr", project, implementation, x.device)


def choose(device: torch.device) -> str:
    """The implementation that "auto" means for tensors on this device."""
    if device.type != "cuda":
        return "torch"
    if "triton" not in _cannot_load:
        try:
            _load("triton")
            return "triton"
        except ImportError as error:
            _cannot_load["triton"] = str(error)
    reason = _cannot_load["triton"]
    _tell_once(f"attention on {device.type} uses torch, as triton cannot be imported: {reason}")
    return "torch"


_T = TypeVar("_T")


def _run(
    operation: str, call: Callable[[Backend], _T], implementation: str, device: torch.device
) -> _T:
    if implementation != "auto":
        return call(_load(implementation))
    chosen = choose(device)
    try:
        return call(_load(chosen))
    except UnsupportedError as error:
        if chosen == "torch":
            raise
        _tell_once(f"{operation} uses torch, as {chosen} refuses: {error}")
    return call(_load("torch"))


def _load(implementation: str) -> Backend:
    backend = _loaded.get(implementation)
    if backend is None:
        if implementation not in _BACKENDS:
            known = ", ".join(("auto", *_BACKENDS))
            raise ValueError(f"unknown attention implementation {implementation!r}; known: {known}")
        backend = _loaded[implementation] = _BACKENDS[implementation]()
    return backend


def _tell_once(message: str) -> None:
    if message not in _told:
        _told.add(message)
        logger.warning(message)

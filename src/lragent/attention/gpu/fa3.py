"""FlashAttention 3, if some package brings it: flash-attn's own, or the copy inside vLLM."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Varlen = Callable[..., Any]


@functools.cache
def find(device: torch.device) -> tuple[str, Varlen] | None:
    """Name and ``flash_attn_varlen_func`` of an installed FlashAttention 3 that runs on ``device``.

    None without one; the log says once why.
    """
    if device.type != "cuda":
        return None
    if torch.cuda.get_device_capability(device)[0] != 9:
        logger.info("prefill uses the Triton kernels: FlashAttention 3 needs a Hopper GPU")
        return None
    reasons = []
    for module, needs in (
        ("flash_attn_interface", None),
        ("vllm.vllm_flash_attn.flash_attn_interface", "FA3_AVAILABLE"),
    ):
        try:
            found = importlib.import_module(module)
        except (ImportError, OSError) as error:
            reasons.append(f"{module}: {error}")
            continue
        if needs is not None and not getattr(found, needs):
            reasons.append(f"{module}: built without FlashAttention 3")
            continue
        return module, found.flash_attn_varlen_func
    logger.info("prefill uses the Triton kernels, no FlashAttention 3: %s", "; ".join(reasons))
    return None


def schedule(
    found: tuple[str, Varlen],
    cu_seqlens_q: Tensor,
    seq_lens: Tensor,
    max_query: int,
    max_seq: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    window: int,
) -> Tensor | None:
    """Its work list for a batch, which serves every layer; None where calls make their own.

    ``seq_lens`` are the contexts of the sequences in ``cu_seqlens_q``.
    """
    module, _ = found
    make = getattr(sys.modules[module], "get_scheduler_metadata", None)
    if make is None or not module.startswith("vllm"):
        return None
    return make(
        batch_size=seq_lens.shape[0],
        max_seqlen_q=max_query,
        max_seqlen_k=max_seq,
        num_heads_q=heads,
        num_heads_kv=kv_heads,
        headdim=head_dim,
        cache_seqlens=seq_lens,
        qkv_dtype=dtype,
        cu_seqlens_q=cu_seqlens_q,
        causal=True,
        window_size=_sides(window),
    )


def _sides(window: int) -> tuple[int, int]:
    return (window - 1, 0) if window else (-1, -1)


def attend(
    found: tuple[str, Varlen],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_query: int,
    max_seq: int,
    scale: float,
    window: int,
    work: Tensor | None,
) -> None:
    """Causal attention over contiguous keys; the shapes are those of ``flash_attn_varlen_func``.

    ``cu_seqlens_q`` may start above 0: rows outside its ranges are neither read nor written.
    ``work`` is what `schedule` gave for the batch.
    """
    (module, function), sides = found, _sides(window)
    if module.startswith("vllm"):
        function(
            q, k, v, max_query, cu_seqlens_q, max_seq, cu_seqlens_k=cu_seqlens_k,
            softmax_scale=scale, causal=True, window_size=list(sides), out=out,
            scheduler_metadata=work, fa_version=3,
        )  # fmt: skip
        return
    result = function(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_query, max_seq,
        softmax_scale=scale, causal=True, window_size=sides,
    )  # fmt: skip
    result = result[0] if isinstance(result, tuple) else result
    rows = torch.arange(q.shape[0], device=q.device)
    mine = (rows >= cu_seqlens_q[0]) & (rows < cu_seqlens_q[-1])
    torch.where(mine[:, None, None], result, out, out=out)

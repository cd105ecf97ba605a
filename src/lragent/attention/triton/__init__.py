"""Flash-LoRA-Attention in Triton: the GPU implementation behind `lragent.attention`.

Importing this package needs Triton. With ``TRITON_INTERPRET=1`` in the environment the same kernels
run on the CPU, which the tests use.
"""

from __future__ import annotations

from lragent.attention.triton.entry import (
    flash_lora_attention,
    graph_safe,
    project_lr,
    reserve_scratch,
    write_pages,
)
from lragent.attention.triton.warm import warm_up

__all__ = [
    "flash_lora_attention",
    "graph_safe",
    "project_lr",
    "reserve_scratch",
    "warm_up",
    "write_pages",
]

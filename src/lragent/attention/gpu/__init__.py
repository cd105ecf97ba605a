"""Flash-LoRA-Attention on GPUs: Triton kernels, and FlashAttention 3 where it is installed.

Importing this package needs Triton. With ``TRITON_INTERPRET=1`` in the environment the same kernels
run on the CPU, which the tests use.
"""

from __future__ import annotations

from lragent.attention.gpu.backend import TritonBackend, graph_safe, reserve_scratch
from lragent.attention.gpu.warm import warm_up

__all__ = ["TritonBackend", "graph_safe", "reserve_scratch", "warm_up"]

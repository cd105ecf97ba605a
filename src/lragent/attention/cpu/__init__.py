"""Flash-LoRA-Attention in plain torch: made for CPUs, runs on any device."""

from __future__ import annotations

from lragent.attention.cpu.backend import TorchBackend

__all__ = ["TorchBackend"]

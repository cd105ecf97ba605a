"""What every implementation of attention over the shared cache provides."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews


class Backend(ABC):
    """One implementation of the three operations, whose arguments are checked before.

    Each raises `UnsupportedError`, before anything is written, for what it cannot do.
    """

    @abstractmethod
    def attend(
        self,
        q: Tensor,
        pages: PageViews,
        batch: AttentionBatch,
        tables: LoraTables,
        *,
        scale: float,
        sliding_window: int | None = None,
        rotation: KeyRotation | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """See `lragent.attention.flash_lora_attention`."""

    @abstractmethod
    def write(
        self,
        k: Tensor,
        v: Tensor,
        lr: Tensor | None,
        pages: PageViews,
        slot_mapping: Tensor,
        write_base: Tensor,
        lr_rows: Tensor,
        lr_slots: Tensor,
    ) -> None:
        """See `lragent.attention.write_pages`."""

    @abstractmethod
    def project(self, x: Tensor, a: Tensor, index: Tensor) -> Tensor:
        """See `lragent.attention.project_lr`."""

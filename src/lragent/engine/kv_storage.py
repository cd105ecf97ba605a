"""The tensors that hold the pages of every layer."""

from __future__ import annotations

import torch

from lragent.attention.base import PageViews, page_views
from lragent.cache.layout import PageLayout


class KVStorage:
    """One tensor `[num_pages, page_elements]` a layer, and the views that attention reads.

    Memory is not cleared: a row is read only after it was written.
    """

    def __init__(
        self,
        layout: PageLayout,
        num_pages: int,
        layers: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.layout = layout
        self.num_pages = num_pages
        self.layers = layers
        self.tensors = [
            torch.empty(num_pages, layout.page_elements, dtype=dtype, device=device)
            for _ in range(layers)
        ]
        self.views: list[PageViews] = [page_views(tensor, layout) for tensor in self.tensors]

    @property
    def nbytes(self) -> int:
        """Bytes of all pages of all layers."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

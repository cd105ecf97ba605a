"""The tensors that hold the pages of every layer."""

from __future__ import annotations

import torch

from lragent.attention import PageViews, head_major_pages, page_views
from lragent.cache.layout import PageLayout


class KVStorage:
    """The pages of every layer, as attention reads and writes them.

    On a GPU one tensor `[num_pages, page_elements]` a layer; on a CPU K, V_base and LR of all pages
    lie in tensors of their own, head by head. Memory is not cleared: a row is read only after it
    was written.
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
        self.views: list[PageViews]
        if device.type == "cpu":
            self.views = [head_major_pages(num_pages, layout, dtype, device) for _ in range(layers)]
        else:
            shape = (num_pages, layout.page_elements)
            tensors = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
            self.views = [page_views(tensor, layout) for tensor in tensors]

    @property
    def nbytes(self) -> int:
        """Bytes of all pages of all layers, their padding included."""
        return self.num_pages * self.layout.page_bytes * self.layers

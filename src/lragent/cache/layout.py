"""The layout of one page of one layer, in elements and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

ALIGNMENT_BYTES = 128


@dataclass(frozen=True)
class PageLayout:
    """One page of one layer: three blocks, padded to 128 bytes.

    ::

        [ K: kv_heads x page_size x head_dim | V_base: the same |
          LR: page_size x slots x (v_rank + k_rank) | padding ]

    ``page_size`` is in tokens, ``itemsize`` in bytes an element; a slot's row of LR holds the value
    part first. Offsets and ``page_elements`` count elements of the cache's dtype.

    Raises:
        ValueError: a size is not positive (slots and ranks may be 0), or ``itemsize`` does not
            divide 128.
    """

    page_size: int
    kv_heads: int
    head_dim: int
    slots: int
    v_rank: int
    k_rank: int
    itemsize: int

    def __post_init__(self) -> None:
        for name in ("page_size", "kv_heads", "head_dim", "itemsize"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("slots", "v_rank", "k_rank"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if ALIGNMENT_BYTES % self.itemsize:
            raise ValueError(f"itemsize must divide {ALIGNMENT_BYTES}, got {self.itemsize}")

    @property
    def lr_width(self) -> int:
        """Elements of one slot for one token: the value part, then the key part."""
        return self.v_rank + self.k_rank

    @property
    def k_offset(self) -> int:
        """First element of the K block."""
        return 0

    @property
    def v_offset(self) -> int:
        """First element of the V_base block."""
        return self.kv_heads * self.page_size * self.head_dim

    @property
    def lr_offset(self) -> int:
        """First element of the LR block."""
        return 2 * self.v_offset

    @cached_property
    def page_elements(self) -> int:
        """Elements of one page with its padding: the stride from page to page."""
        used = self.lr_offset + self.page_size * self.slots * self.lr_width
        step = ALIGNMENT_BYTES // self.itemsize
        return -(-used // step) * step

    @property
    def page_bytes(self) -> int:
        """Bytes of one page with its padding."""
        return self.page_elements * self.itemsize

    @property
    def base_bytes(self) -> int:
        """Bytes of K and V_base in one page."""
        return self.lr_offset * self.itemsize

    @property
    def lr_slot_bytes(self) -> int:
        """Bytes of one LR slot in one page."""
        return self.page_size * self.lr_width * self.itemsize

    @property
    def lr_bytes(self) -> int:
        """Bytes of all LR slots in one page."""
        return self.slots * self.lr_slot_bytes

    def describe(self) -> str:
        """The layout as text for page keys: pages of other layouts never match."""
        return (
            f"blocks/1 page_size={self.page_size} kv_heads={self.kv_heads} "
            f"head_dim={self.head_dim} slots={self.slots} v_rank={self.v_rank} "
            f"k_rank={self.k_rank} itemsize={self.itemsize}"
        )

"""Pages that remember who wrote what, in place of numbers: the row-level oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Tag = tuple[Any, ...]


@dataclass
class TaggedMemory:
    """For each row of each page: a tag for K and V_base, and one for each LR slot.

    Attributes:
        reads: rows that were read and compared.
        wrong: the wrong ones, in words.
    """

    page_size: int
    base: dict[tuple[int, int], Tag] = field(default_factory=dict)
    lr: dict[tuple[int, int, int], Tag] = field(default_factory=dict)
    reads: int = 0
    wrong: list[str] = field(default_factory=list)

    def _place(self, blocks: Sequence[int], position: int) -> tuple[int, int]:
        return blocks[position // self.page_size], position % self.page_size

    def write_base(self, blocks: Sequence[int], position: int, tag: Tag) -> None:
        self.base[self._place(blocks, position)] = tag

    def write_lr(self, blocks: Sequence[int], position: int, slot: int, tag: Tag) -> None:
        self.lr[(*self._place(blocks, position), slot)] = tag

    def read(
        self, who: str, blocks: Sequence[int], position: int, base: Tag, slot: int, lr: Tag
    ) -> None:
        """Compare one row with what it should hold; a slot of -1 reads no LR."""
        place = self._place(blocks, position)
        self.reads += 1
        if self.base.get(place) != base:
            self.wrong.append(f"{who} at {position}: base {self.base.get(place)}, not {base}")
        if slot >= 0 and self.lr.get((*place, slot)) != lr:
            self.wrong.append(f"{who} at {position}: LR {self.lr.get((*place, slot))}, not {lr}")

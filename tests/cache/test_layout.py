from __future__ import annotations

from dataclasses import fields, replace

import pytest

from lragent.cache import PageLayout

LAYOUT = PageLayout(page_size=16, kv_heads=3, head_dim=64, slots=2, v_rank=8, k_rank=4, itemsize=2)


def test_blocks_lie_one_after_another() -> None:
    assert LAYOUT.k_offset == 0
    assert LAYOUT.v_offset == 3 * 16 * 64
    assert LAYOUT.lr_offset == 2 * 3 * 16 * 64
    assert LAYOUT.lr_width == 12
    assert LAYOUT.base_bytes == 2 * 3 * 16 * 64 * 2
    assert LAYOUT.lr_slot_bytes == 16 * 12 * 2
    assert LAYOUT.lr_bytes == 2 * LAYOUT.lr_slot_bytes


@pytest.mark.parametrize("itemsize", [1, 2, 4])
@pytest.mark.parametrize("v_rank", [0, 1, 5, 8])
def test_padding_is_to_128_bytes_and_no_more(itemsize: int, v_rank: int) -> None:
    layout = replace(LAYOUT, itemsize=itemsize, v_rank=v_rank, page_size=3)
    used = layout.base_bytes + layout.lr_bytes
    assert layout.page_bytes % 128 == 0
    assert used <= layout.page_bytes < used + 128
    assert layout.page_elements * itemsize == layout.page_bytes


def test_describe_tells_layouts_apart() -> None:
    texts = {LAYOUT.describe()}
    for field in fields(PageLayout):
        texts.add(replace(LAYOUT, **{field.name: 2 * getattr(LAYOUT, field.name)}).describe())
    assert len(texts) == 1 + len(fields(PageLayout))


@pytest.mark.parametrize(
    ("field", "value"), [("page_size", 0), ("kv_heads", 0), ("slots", -1), ("itemsize", 3)]
)
def test_impossible_sizes_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        replace(LAYOUT, **{field: value})

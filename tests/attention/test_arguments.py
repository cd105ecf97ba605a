"""Arguments that do not fit are refused, with the sizes in the message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.attention.problems import Case, make

from lragent.attention import (
    AttentionBatch,
    KeyRotation,
    LoraTables,
    PageViews,
    flash_lora_attention,
    page_views,
)
from lragent.cache.layout import PageLayout

CASE = Case(k_rank=4)


def call(**changes: Any) -> torch.Tensor:
    problem = make(CASE)
    arguments: dict[str, Any] = {
        "q": problem.q,
        "pages": problem.pages,
        "batch": problem.batch,
        "tables": problem.tables,
        "scale": problem.scale,
        "rotation": problem.rotation,
    }
    return flash_lora_attention(**(arguments | changes))


def test_the_unchanged_arguments_fit() -> None:
    assert call().isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.ones(3, 6, 64)}, "T >= 22"),
        ({"q": torch.ones(22, 5, 64)}, "5 heads of 64, the pages 2 heads of 64"),
        ({"q": torch.ones(22, 6, 32)}, "6 heads of 32"),
        ({"out": torch.ones(22, 6, 32)}, "out has shape"),
        ({"sliding_window": 0}, "at least 1"),
        ({"rotation": None}, "needs a KeyRotation"),
        ({"rotation": KeyRotation(torch.ones(40, 32), torch.ones(40, 32))}, "32 of 64"),
        ({"rotation": KeyRotation(torch.ones(9, 64), torch.ones(9, 64))}, "9 positions"),
        ({"tables": LoraTables(torch.ones(2, 8, 99))}, "v_b has width 99"),
        ({"tables": LoraTables(torch.ones(2, 20, 128))}, "20 LR columns, a slot has 12"),
        ({"tables": LoraTables(torch.ones(1, 8, 128))}, "adapter 1, the LoRA tables hold 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusal(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_missing_lr_block() -> None:
    pages = make(CASE).pages
    with pytest.raises(ValueError, match="no LR block"):
        call(pages=PageViews(pages.k, pages.v, None))


def test_missing_slot() -> None:
    batch = AttentionBatch.build([[1, 2, 3]], [1], [40], [0], [5])
    with pytest.raises(ValueError, match="slot 5, pages have 2"):
        call(batch=batch, rotation=KeyRotation(torch.ones(40, 64), torch.ones(40, 64)))


def test_missing_pages() -> None:
    with pytest.raises(ValueError, match="sequence 0 has 40 tokens, its 2 pages of 16"):
        call(batch=AttentionBatch.build([[1, 2]], [1], [40]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1]], [1, 1], [3]), "1 block tables but 2 query_lens"),
        (([[1]], [4], [3]), "sequence 0 has 4 queries in 3 tokens"),
        (([[1]], [1], [3], [0, 0]), "2 adapter_index"),
    ],
    ids=["lengths", "queries", "adapters"],
)
def test_batch_lists_that_disagree(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionBatch.build(*arguments)


def test_batch_wider_than_its_capacity() -> None:
    with pytest.raises(ValueError, match="max_pages=1"):
        AttentionBatch.build([[1, 2]], [1], [3], max_pages=1)


def test_batch_tensors() -> None:
    batch = AttentionBatch.build([[4, 2], [7]], [1, 3], [20, 3], [1, -1], [0, -1], max_pages=3)
    assert batch.block_tables.tolist() == [[4, 2, 0], [7, 0, 0]]
    assert batch.cu_seqlens_q.tolist() == batch.host_cu_seqlens_q == [0, 1, 4]
    assert batch.seq_lens.tolist() == [20, 3]
    assert batch.adapter_index.tolist() == [1, -1]
    assert batch.lr_slot.tolist() == [0, -1]
    assert (batch.max_query, batch.max_seq) == (3, 20)
    assert (batch.num_sequences, batch.num_queries) == (2, 4)
    assert all(
        x.dtype == torch.int32
        for x in (batch.block_tables, batch.cu_seqlens_q, batch.seq_lens, batch.lr_slot)
    )


def test_empty_batch() -> None:
    batch = AttentionBatch.build([], [], [])
    assert batch.block_tables.shape == (0, 0)
    assert call(q=torch.empty(0, 6, 64), batch=batch).shape == (0, 6, 64)


def test_page_views_tile_the_page() -> None:
    layout = PageLayout(4, 2, 8, 3, 2, 1, itemsize=4)
    memory = torch.arange(3 * layout.page_elements, dtype=torch.float32).view(3, -1)
    pages = page_views(memory[1:], layout)
    assert pages.lr is not None
    page = memory[2]
    assert torch.equal(pages.k[1].flatten(), page[: layout.v_offset])
    assert torch.equal(pages.v[1].flatten(), page[layout.v_offset : layout.lr_offset])
    assert torch.equal(pages.lr[1].flatten(), page[layout.lr_offset :][: 4 * 3 * 3])


def test_page_views_refuse_another_layout() -> None:
    layout = PageLayout(4, 2, 8, 3, 2, 1, itemsize=4)
    with pytest.raises(ValueError, match="contiguous rows"):
        page_views(torch.ones(3, layout.page_elements + 1), layout)


def test_pages_without_slots_have_no_lr_block() -> None:
    assert make(replace(Case(), slots=0, v_rank=0, adapters=(-1, -1, -1))).pages.lr is None

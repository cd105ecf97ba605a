"""The cost rule: which kernel serves which sequences, as tables."""

from __future__ import annotations

import itertools

import pytest

from lragent.attention.gpu.plan import (
    FA3_RATE,
    SCRATCH_BYTES,
    TRITON_RATE,
    Run,
    Shape,
    best_path,
    plan_runs,
)
from lragent.attention.gpu.tiles import Tile, choose_splits

LLAMA = Shape(
    heads=32,
    kv_heads=8,
    head_dim=128,
    itemsize=2,
    key_lora=False,
    window=0,
    dense_rate=FA3_RATE,
)


def plan(shape: Shape, queries: list[int], contexts: list[int]) -> list[tuple[str, int, int]]:
    starts = [0, *itertools.accumulate(queries)]
    return [(run.path, run.first, run.last) for run in plan_runs(shape, starts, contexts)]


def test_decode_sequences_share_one_launch():
    assert plan(LLAMA, [1, 1, 0, 1], [9, 900, 4, 30]) == [("decode", 0, 4)]


def test_long_prefill_is_expanded_and_short_is_not():
    assert plan(LLAMA, [8192], [8192]) == [("expand", 0, 1)]
    assert plan(LLAMA, [16], [8192]) == [("tiles", 0, 1)]
    assert plan(LLAMA, [256], [1024]) == [("expand", 0, 1)]
    assert plan(LLAMA, [64], [1024]) == [("tiles", 0, 1)]


def test_mixed_batch_keeps_each_kind_together():
    queries = [1, 1, 4096, 4096, 20, 1, 30]
    contexts = [500, 8000, 4096, 8192, 20, 700, 100]
    assert plan(LLAMA, queries, contexts) == [
        ("decode", 0, 6),
        ("expand", 2, 4),
        ("tiles", 4, 7),
    ]


def test_tile_runs_do_not_reach_over_expanded_sequences():
    assert plan(LLAMA, [20, 4096, 20], [20, 4096, 20]) == [
        ("tiles", 0, 1),
        ("expand", 1, 2),
        ("tiles", 2, 3),
    ]


def test_only_those_that_are_wanted_are_planned():
    starts = [0, 4096, 4097, 8193, 8194]
    contexts = [4096, 900, 8192, 40]
    runs = plan_runs(LLAMA, starts, contexts, {1, 2})
    assert [(run.path, run.first, run.last) for run in runs] == [("decode", 1, 2), ("expand", 2, 3)]
    assert plan_runs(LLAMA, starts, contexts, set()) == []


def test_tiles_of_those_that_are_wanted_do_not_reach_over_others():
    starts, contexts = [0, 20, 40, 60, 61, 62], [20, 90, 90, 90, 91]
    runs = plan_runs(LLAMA, starts, contexts, {0, 2, 3, 4})
    assert [(run.path, run.first, run.last) for run in runs] == [
        ("tiles", 0, 1),
        ("tiles", 2, 3),
        ("decode", 3, 5),
    ]
    [whole, _] = plan_runs(LLAMA, starts, contexts)
    assert (whole.path, whole.first, whole.last) == ("tiles", 0, 3)


def test_expansion_stays_within_the_scratch_buffer():
    tokens = SCRATCH_BYTES // LLAMA.expanded_token
    assert plan(LLAMA, [4096], [tokens + 1]) == [("tiles", 0, 1)]
    half = tokens // 2 + 1
    assert plan(LLAMA, [4096] * 2, [half] * 2) == [("expand", 0, 1), ("expand", 1, 2)]


def test_nothing_is_expanded_without_a_dense_kernel():
    assert plan(LLAMA._replace(dense_rate=0.0), [8192], [8192]) == [("tiles", 0, 1)]


def test_key_lora_windows_and_the_dense_kernel_move_the_border():
    def border(shape: Shape) -> int:
        return next(n for n in range(2, 8192) if best_path(shape, n, 32768) == "expand")

    queries = border(LLAMA)
    assert border(LLAMA._replace(key_lora=True)) < queries
    assert best_path(LLAMA._replace(window=1024), queries, 32768) == "tiles"
    slower = LLAMA._replace(dense_rate=TRITON_RATE)
    assert best_path(slower, queries, 32768) == "tiles"
    assert best_path(slower, 2048, 32768) == "expand"


def test_a_run_sums_its_contexts():
    starts = [0, 4096, 8192]
    assert plan_runs(LLAMA, starts, [4096, 8192]) == [Run("expand", 0, 2, 4096, 8192, 12288)]


@pytest.mark.parametrize("programs", [1, 8, 64, 512, 4096])
@pytest.mark.parametrize("context", [1, 64, 1024, 32768, 131072])
def test_splits_are_possible(programs: int, context: int):
    splits = choose_splits(programs, context, Tile(16, 64, 2, 3), 132)
    assert splits == 1 or (splits - 1) * 64 < context


def test_splits_fill_an_idle_device_and_hardly_divide_on_a_full_one():
    tile = Tile(16, 64, 2, 3)
    assert choose_splits(8, 32768, tile, 132) >= 16
    assert choose_splits(4096, 32768, tile, 132) <= 4

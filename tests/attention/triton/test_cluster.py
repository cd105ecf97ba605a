"""The projection by clusters compiles anywhere; whether it is right, a Hopper GPU shows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tests.attention.triton.problems import DEVICE
from tests.attention.triton.projections import assert_projects

from lragent.attention.triton.launch_project import has_clusters
from lragent.attention.triton.tiles_project import ClusterTile

PROGRAM = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource
from lragent.attention.triton.cluster import cluster_kernel
from lragent.attention.triton.tiles_project import ClusterTile

tile = ClusterTile(*map(int, sys.argv[1:]))
names = cluster_kernel.arg_names
pointers = dict(out_ptr="*bf16", x_ptr="*bf16", a_ptr="*bf16", index_ptr="*i32")
strides = dict(stride_x="i32", stride_an="i32", stride_aw="i32")
numbers = dict(tokens="i32", stride_index="i32", **strides)
constants = dict(
    SLOTS=8, WIDTH=16, D=4096, BLOCK_T=tile.block_t, BLOCK_C=tile.block_c,
    BLOCK_D=tile.block_d(4096),
)
types = {name: {**pointers, **numbers}.get(name, "constexpr") for name in names}
whole = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, *strides)}
values = {(names.index(name),): value for name, value in constants.items()}
source = GluonASTSource(cluster_kernel, types, values, whole)
options = dict(num_warps=tile.warps, num_ctas=tile.cluster)
ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
products = tile.block_c // 8 * (tile.block_t // 16) * tile.block_d(4096) // 16
assert ptx.count("mma.sync") == products, ptx.count("mma.sync")
assert ptx.count("st.async.shared::cluster") == tile.block_t * tile.block_c // (64 * tile.warps)
assert ptx.count("ld.global.v4") >= products // 2, "operands are not loaded in 16 bytes"
assert ptx.count("bar.sync") == 1, "values pass through shared memory on their way"
"""


TILES = [
    ClusterTile(16, 16, 8, 4),
    ClusterTile(32, 8, 8, 4),
    ClusterTile(32, 16, 8, 4),
    ClusterTile(64, 16, 8, 4),
    ClusterTile(64, 8, 8, 4),
    ClusterTile(16, 16, 4, 4),
    ClusterTile(32, 16, 2, 8),
    ClusterTile(16, 8, 8, 2),
]


@pytest.mark.parametrize("tile", TILES[:5], ids=str)
def test_compiles_to_what_it_means(tile: ClusterTile):
    sizes = [tile.block_t, tile.block_c, tile.cluster, tile.warps]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, sizes)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        check=True,
    )


if has_clusters(DEVICE):

    @pytest.mark.parametrize("tile", TILES, ids=str)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("columns", [16, 48])
    @pytest.mark.parametrize("hidden", [512, 1536, 4096, 8192])
    def test_clusters(tile: ClusterTile, dtype: torch.dtype, columns: int, hidden: int):
        assert_projects(tile, dtype, columns, hidden, ((1, 3), (16, 1), (37, 8), (130, 2)))

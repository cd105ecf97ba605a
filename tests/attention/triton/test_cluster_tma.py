"""The projection with tensor copies compiles anywhere; whether it is right, a Hopper GPU shows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tests.attention.triton.problems import DEVICE, assert_within
from tests.attention.triton.projections import assert_projects

from lragent.attention.project import project_lr_reference, project_lr_torch
from lragent.attention.triton.launch_project import has_clusters, launch_project
from lragent.attention.triton.tiles_project import TmaTile

PROGRAM = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource
from lragent.attention.triton import cluster_tma
from lragent.attention.triton.tiles_project import BOX, TMA_TOKENS, TmaTile

block_c, cluster, columns, hidden = map(int, sys.argv[1:])
tile = TmaTile(block_c, cluster)
kernel, layout = cluster_tma.cluster_tma_kernel, cluster_tma.box_layout(cluster)
names, of_slot = kernel.arg_names, min(columns, block_c)
maps = dict(
    x_desc=f"tensordesc<bf16[{TMA_TOKENS}, {BOX}],{layout!r}>",
    a_desc=f"tensordesc<bf16[{of_slot}, {BOX}],{layout!r}>",
)
pointers = dict(out_ptr="*bf16", index_ptr="*i32")
numbers = dict(tokens="i32", stride_index="i32")
constants = dict(
    SLOTS=8, WIDTH=columns, D=hidden, BLOCK_C=block_c, STAGES=tile.stages(hidden),
    PIECES=tile.pieces(hidden),
)
types = {name: {**pointers, **maps, **numbers}.get(name, "constexpr") for name in names}
whole = {(names.index(name),): [["tt.divisibility", 16]] for name in pointers}
values = {(names.index(name),): value for name, value in constants.items()}
source = GluonASTSource(kernel, types, values, whole)
options = dict(num_warps=tile.warps, num_ctas=cluster)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
ptx = compiled.asm["ptx"]
for parameter in (cluster_tma.X_MAP.value, cluster_tma.A_MAP.value):
    declared = f".param .align 64 .b8 {kernel.__name__}_param_{parameter}[128]"
    assert declared in ptx, "tensor maps are other parameters"
assert ptx.count("cp.async.bulk.tensor") == 3, "x, A, and A of another choice"
products = tile.boxes(hidden) * BOX // 16
assert ptx.count("wgmma.mma_async") == products, ptx.count("wgmma.mma_async")
assert ptx.count("st.async.shared::cluster") == TMA_TOKENS * block_c // (4 * 32 * tile.warps)
assert ptx.count("bar.sync") == 3, "values pass through shared memory on their way"
assert ptx.count("fence.proxy") == 0 and ptx.count("st.shared") == 0
data = tile.boxes(hidden) * (TMA_TOKENS + block_c) * BOX * 2
assert "global_smem; add.u32" in ptx and f", {data};" in ptx
received = 128 + TMA_TOKENS * block_c * 4
assert data + received <= compiled.metadata.shared < data + received + TMA_TOKENS * BOX * 2
"""

TILES = [TmaTile(32, 8), TmaTile(32, 4), TmaTile(16, 8), TmaTile(64, 8), TmaTile(16, 2)]
SHAPES = [(16, 512), (8, 3584), (16, 4096), (64, 4096), (32, 8192)]
FITTING = [(tile, *shape) for tile in TILES for shape in SHAPES if tile.fits(8, *shape)]


@pytest.mark.parametrize(
    ("tile", "columns", "hidden"),
    [(TILES[0], 16, 4096), (TILES[1], 8, 4096), (TILES[2], 32, 3584), (TILES[3], 16, 5120)],
    ids=str,
)
def test_compiles_to_what_it_means(tile: TmaTile, columns: int, hidden: int):
    sizes = [tile.block_c, tile.cluster, columns, hidden]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, sizes)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        check=True,
    )


if has_clusters(DEVICE):

    @pytest.mark.parametrize(("tile", "columns", "hidden"), FITTING, ids=str)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_copies(tile: TmaTile, dtype: torch.dtype, columns: int, hidden: int):
        assert_projects(tile, dtype, columns, hidden, ((1, 8), (64, 4), (37, 8), (130, 8)))

    def test_what_maps_cannot_describe_is_read_otherwise():
        tokens, slots, columns, hidden = 100, 8, 16, 4096
        memory = torch.randn(tokens * hidden + 1, device=DEVICE).to(torch.bfloat16)
        odd = memory[1:].view(tokens, hidden)
        wide = torch.randn(slots, 2 * columns, hidden, device=DEVICE).to(torch.bfloat16)
        a = wide * hidden**-0.5
        index = torch.arange(slots, dtype=torch.int32, device=DEVICE).repeat(tokens, 1)
        for x, down in ((odd, a[:, :columns].contiguous()), (odd.clone(), a[:, :columns])):
            out = torch.full((tokens, slots, columns), float("nan"), device=DEVICE).to(x.dtype)
            with pytest.raises(ValueError, match="multiples of 16 bytes, and A without gaps"):
                launch_project(x, down, index, out, TmaTile(32, 8))
            launch_project(x, down, index, out)
            truth = project_lr_reference(x.double(), down.double(), index)
            assert_within(out, truth, project_lr_torch(x, down, index))

    def test_replayed_with_other_numbers_and_choices():
        tokens, slots, columns, hidden = 150, 4, 16, 4096
        x = torch.randn(tokens, hidden, device=DEVICE).to(torch.bfloat16)
        a = (torch.randn(5, columns, hidden, device=DEVICE) * hidden**-0.5).to(x.dtype)
        index = torch.zeros(tokens, slots, dtype=torch.int32, device=DEVICE)
        out = torch.empty(tokens, slots, columns, dtype=x.dtype, device=DEVICE)
        launch_project(x, a, index, out, TmaTile(32, 8))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch_project(x, a, index, out, TmaTile(32, 8))
        for seed in range(3):
            torch.manual_seed(seed)
            x.copy_(torch.randn(tokens, hidden))
            index.copy_(torch.randint(-1, 5, (tokens, slots)))
            graph.replay()
            truth = project_lr_reference(x.double(), a.double(), index)
            assert_within(out, truth, project_lr_torch(x, a, index))

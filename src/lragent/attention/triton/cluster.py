"""The LR projection for some tokens, by clusters of thread blocks (Hopper).

From some tokens on, `rows_kernel` waits for the L2 cache, as every program reads whole rows of x.
Here the blocks of a cluster, and the warps of a block, take a share of the hidden dimension each.
Operands go from memory into the registers of the matrix instruction. A block adds up its warps'
parts, then sends every element to the block that adds it up over the cluster, into its shared
memory, which the blocks of a cluster reach without going through L2. Sums have a fixed order. One
launch, no atomics.

Triton 3.6 cannot move values between blocks by itself (`convert_layout` and `sum` over a cluster do
not compile), so these moves are written as PTX: one counting barrier a block, which the values'
bytes arrive at, and one cluster barrier before anything is sent, as only a block that runs has
shared memory. The barrier counts every byte once, so no two threads may hold the same element of
what is sent (`ClusterTile.fits`). How many `mma.sync` a share takes is unrolled.
"""

# Gluon rewrites these functions; its types are not the ones a Python type checker sees.
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAssignmentType=false
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

BARRIER = 16  # bytes before the values: the counting barrier
BARRIER_BYTES = gl.constexpr(BARRIER)


@gluon.constexpr_function
def product_layout(cluster, warps):
    """``[shares, tokens, columns]``: shares over the blocks of the cluster, then their warps."""
    blocks = [[1 << bit, 0, 0] for bit in range(cluster.bit_length() - 1)]
    return gl.NVMMADistributedLayout([2, 0], [warps, 1, 1], [1, 16, 8], blocks)


@gluon.constexpr_function
def block_layout(cluster, warps):
    """``[shares, elements]``: shares over blocks and registers, pairs of elements over threads."""
    blocks = [[1 << bit, 0] for bit in range(cluster.bit_length() - 1)]
    return gl.BlockedLayout([warps, 2], [1, 32], [1, warps], [1, 0], blocks)


@gluon.constexpr_function
def sum_layout(cluster, warps, part):
    """``[blocks, elements]``: elements over blocks and warps, their parts over lanes and
    registers."""
    lanes = max(1, min(32, part // warps // 2))
    blocks = [[0, 1 << bit] for bit in range(cluster.bit_length() - 1)]
    return gl.BlockedLayout([1, 2], [32 // lanes, lanes], [1, warps], [1, 0], blocks)


@gluon.constexpr_function
def k_width(block_d):
    """Numbers beside each other along the hidden dimension that a lane holds: 16 bytes if whole."""
    return 8 if block_d >= 64 else 4 if block_d >= 32 else 2


@gluon.constexpr_function
def begin_asm(arriving, own):
    """Shared memory for ``arriving`` bytes and the block's ``own``, and a barrier that counts what
    arrives; tells the cluster that it runs."""
    return (
        f"{{ .shared .align 16 .b8 lragent_parts[{BARRIER + arriving + own}]; "
        "mov.u32 $0, lragent_parts; "
        ".reg .pred first; .reg .b32 thread; mov.u32 thread, %tid.x; setp.eq.u32 first, thread, 0; "
        "@first mbarrier.init.shared::cta.b64 [$0], 1; "
        "@first fence.mbarrier_init.release.cluster; "
        f"@first mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], {arriving}; "
        "barrier.cluster.arrive.relaxed.aligned; }"
    )


# Loads stay before it: ptxas would move some behind the first products, which wait for others.
HOLD_ASM = gl.constexpr("bar.warp.sync 0xffffffff; mov.u32 $0, 0;")

WRITE_ASM = gl.constexpr("st.shared.v2.b32 [$2], {$4, $5}; mov.u32 $0, 0; mov.u32 $1, 0;")

# Every block of the cluster runs, and every warp of this one has written.
RUNNING_ASM = gl.constexpr("barrier.cluster.wait.aligned; bar.sync 0; mov.u32 $0, 0;")

# Two values beside each other to an address of a block's shared memory, and to its barrier.
SEND_ASM = gl.constexpr(
    "{ .reg .b32 there, counter; "
    "mapa.shared::cluster.u32 there, $2, $4; mapa.shared::cluster.u32 counter, $8, $4; "
    "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [there], {$6, $7}, [counter]; "
    "mov.u32 $0, 0; mov.u32 $1, 0; }"
)

ARRIVED_ASM = gl.constexpr(
    "{ .reg .pred done; LRAGENT_WAIT: "
    "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [$1], 0; "
    "@!done bra LRAGENT_WAIT; mov.u32 $0, 0; }"
)

READ_ASM = gl.constexpr("ld.shared.v2.b32 {$0, $1}, [$2];")


@gluon.jit
def products(
    x_ptr, a_ptr, index_ptr, tokens, stride_x, stride_an, stride_aw, stride_index,
    slot, first_t, first_w,
    M: gl.constexpr, SHARES: gl.constexpr, SHARE: gl.constexpr,
    BLOCK_T: gl.constexpr, BLOCK_C: gl.constexpr, BLOCK_D: gl.constexpr,
):  # fmt: skip
    """This tile's part of the sum, ``[SHARES, BLOCK_T, BLOCK_C]``; zeros where no A is chosen."""
    STEPS: gl.constexpr = SHARE // BLOCK_D
    X: gl.constexpr = gl.DotOperandLayout(0, M, k_width(BLOCK_D))
    A: gl.constexpr = gl.DotOperandLayout(1, M, k_width(BLOCK_D))
    # The first token's choice by itself: the loads of its A wait for nothing else.
    offs_t = first_t + gl.arange(0, BLOCK_T, gl.SliceLayout(1, gl.SliceLayout(0, M)))
    chosen = gl.load(index_ptr + first_t.to(gl.int64) * stride_index + slot)
    rows = gl.minimum(offs_t, tokens - 1).to(gl.int64)
    choices = gl.load(index_ptr + rows * stride_index + slot)

    row = first_t + gl.arange(0, BLOCK_T, gl.SliceLayout(1, gl.SliceLayout(0, X)))
    row = gl.minimum(row, tokens - 1).to(gl.int64)
    share_x = gl.arange(0, SHARES, gl.SliceLayout(1, gl.SliceLayout(2, X)))[:, None][:, :, None]
    d_x = gl.arange(0, BLOCK_D, gl.SliceLayout(0, gl.SliceLayout(0, X)))[None, :][None, :, :]
    x_ptrs = x_ptr + (row * stride_x)[:, None][None, :, :] + (share_x * SHARE + d_x)
    col = first_w + gl.arange(0, BLOCK_C, gl.SliceLayout(0, gl.SliceLayout(0, A)))
    share_a = gl.arange(0, SHARES, gl.SliceLayout(1, gl.SliceLayout(2, A)))[:, None][:, :, None]
    d_a = gl.arange(0, BLOCK_D, gl.SliceLayout(1, gl.SliceLayout(0, A)))[:, None][None, :, :]
    a_offs = (col * stride_aw)[None, :][None, :, :] + (share_a * SHARE + d_a)
    if STEPS == 1:
        x = gl.load(x_ptrs)
    out = gl.zeros([SHARES, BLOCK_T, BLOCK_C], gl.float32, M)
    left = offs_t < tokens
    more = 1
    # Tokens with the same choice of A together; usually all.
    while more > 0:
        acc = gl.zeros([SHARES, BLOCK_T, BLOCK_C], gl.float32, M)
        a_base = a_ptr + gl.maximum(chosen, 0).to(gl.int64) * stride_an
        for step in gl.static_range(STEPS):
            a = gl.load(a_base + (a_offs + step * BLOCK_D))
            if STEPS > 1:
                x = gl.load(x_ptrs + step * BLOCK_D)
            else:
                gl.inline_asm_elementwise(
                    HOLD_ASM, "=r", [], dtype=gl.int32, is_pure=False, pack=1
                )  # fmt: skip
            acc = mma_v2(x, a, acc)
        same = choices == chosen
        out = gl.where((same & (choices >= 0))[:, None][None, :, :], acc, out)
        left = left & (choices != chosen)
        leader = gl.min(gl.where(left, offs_t, 2147483647), 0)
        more = (leader < 2147483647).to(gl.int32)
        if more > 0:
            chosen = gl.load(index_ptr + leader.to(gl.int64) * stride_index + slot)
    return out


@gluon.jit(do_not_specialize=("tokens",))
def cluster_kernel(
    out_ptr,  # [T, S, W]
    x_ptr,
    a_ptr,
    index_ptr,
    tokens,
    stride_x,
    stride_an,
    stride_aw,
    stride_index,
    SLOTS: gl.constexpr,
    WIDTH: gl.constexpr,
    D: gl.constexpr,
    BLOCK_T: gl.constexpr,
    BLOCK_C: gl.constexpr,
    BLOCK_D: gl.constexpr,
):
    """Grid, of clusters: (blocks of tokens, slots times blocks of columns)."""
    CLUSTER: gl.constexpr = gl.num_ctas()
    WARPS: gl.constexpr = gl.num_warps()
    SHARES: gl.constexpr = CLUSTER * WARPS
    TILE: gl.constexpr = BLOCK_T * BLOCK_C
    PART: gl.constexpr = TILE // CLUSTER
    M: gl.constexpr = product_layout(CLUSTER, WARPS)
    base = gl.inline_asm_elementwise(
        begin_asm(TILE * 4, TILE * WARPS * 4), "=r", [], dtype=gl.int32, is_pure=False, pack=1
    )
    BLOCKS: gl.constexpr = WIDTH // BLOCK_C
    slot = gl.program_id(1) // BLOCKS
    first_w = gl.program_id(1) % BLOCKS * BLOCK_C
    first_t = gl.program_id(0) * BLOCK_T
    out = products(
        x_ptr, a_ptr, index_ptr, tokens, stride_x, stride_an, stride_aw, stride_index,
        slot, first_t, first_w,
        M, SHARES, D // SHARES, BLOCK_T, BLOCK_C, BLOCK_D,
    )  # fmt: skip

    # Within the block: the parts of its warps, [WARPS, TILE].
    e_t = gl.arange(0, BLOCK_T, gl.SliceLayout(1, gl.SliceLayout(0, M)))[:, None][None, :, :]
    e_c = gl.arange(0, BLOCK_C, gl.SliceLayout(0, gl.SliceLayout(0, M)))[None, :][None, :, :]
    share = gl.arange(0, SHARES, gl.SliceLayout(1, gl.SliceLayout(2, M)))[:, None][:, :, None]
    own = base + BARRIER_BYTES + TILE * 4
    at = own + (share % WARPS * TILE + e_t * BLOCK_C + e_c) * 4
    gl.inline_asm_elementwise(
        WRITE_ASM, "=r,=r,r,r,r,r", [at, out], dtype=gl.int32, is_pure=False, pack=2
    )
    B: gl.constexpr = block_layout(CLUSTER, WARPS)
    e_b = gl.arange(0, TILE, gl.SliceLayout(0, B))
    share_b = gl.arange(0, SHARES, gl.SliceLayout(1, B))
    at_b = own + (share_b[:, None] % WARPS * TILE + e_b[None, :]) * 4
    gl.inline_asm_elementwise(RUNNING_ASM, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
    parts = gl.inline_asm_elementwise(
        READ_ASM, "=r,=r,r,r", [at_b], dtype=gl.float32, is_pure=False, pack=2
    )
    parts = gl.sum(parts.reshape([CLUSTER, WARPS, TILE]), 1)

    # Over the cluster: element e is added up by block e // PART, which gets [CLUSTER, PART].
    S: gl.constexpr = parts.type.layout
    e_s = gl.arange(0, TILE, gl.SliceLayout(0, S))[None, :]
    block = gl.arange(0, CLUSTER, gl.SliceLayout(1, S))[:, None]
    at_s = base + BARRIER_BYTES + (block * PART + e_s % PART) * 4
    gl.inline_asm_elementwise(
        SEND_ASM, "=r,=r,r,r,r,r,r,r,r,r", [at_s, e_s // PART + block * 0, parts, base],
        dtype=gl.int32, is_pure=False, pack=2,
    )  # fmt: skip
    gl.inline_asm_elementwise(ARRIVED_ASM, "=r,r", [base], dtype=gl.int32, is_pure=False, pack=1)
    R: gl.constexpr = sum_layout(CLUSTER, WARPS, PART)
    e_r = gl.arange(0, TILE, gl.SliceLayout(0, R))
    block_r = gl.arange(0, CLUSTER, gl.SliceLayout(1, R))
    at_r = base + BARRIER_BYTES + (block_r[:, None] * PART + (e_r % PART)[None, :]) * 4
    parts = gl.inline_asm_elementwise(
        READ_ASM, "=r,=r,r,r", [at_r], dtype=gl.float32, is_pure=False, pack=2
    )
    total = gl.sum(parts, 0)
    t = first_t + e_r // BLOCK_C
    out_ptrs = out_ptr + (t.to(gl.int64) * SLOTS + slot) * WIDTH + first_w + e_r % BLOCK_C
    gl.store(out_ptrs, total.to(out_ptr.dtype.element_ty), mask=t < tokens)

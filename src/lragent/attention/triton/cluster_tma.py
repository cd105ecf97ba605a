"""The LR projection of several slots by clusters of thread blocks, with tensor copies (Hopper).

`cluster_kernel` reads operands into registers, each of them once for every warp that needs it. With
several slots and more than some ninety tokens that is what it waits for. Here a cluster takes 64
tokens and the columns of several slots; its blocks take a share of the hidden dimension each. A
block's share of x and A is brought to its shared memory by the copy engine (TMA), a box of 64
hidden dimensions at a time, and multiplied there by the Hopper matrix instructions (``wgmma``). The
sums are sent between blocks as in `cluster_kernel`. Sums have a fixed order. One launch, no
atomics.

Copies and their barriers are PTX: Triton 3.6 surrounds its own with barriers of all warps. So the
layout of the block's shared memory is written here (`cluster_tma_kernel`): x, A, the counting
barriers, what arrives from other blocks. Triton allocates it as one piece, the first, at the
beginning of ``global_smem``. A tensor map is a parameter of the kernel, named by its number.
"""

# Gluon rewrites these functions; its types are not the ones a Python type checker sees.
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAssignmentType=false
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from lragent.attention.triton.cluster import ARRIVED_ASM, READ_ASM, sum_layout
from lragent.attention.triton.tiles_project import BOX, COUNTERS, TMA_TOKENS

BOX_D = gl.constexpr(BOX)
BOX_BYTES = gl.constexpr(BOX * 2)  # of a token's or a column's part of a box
COUNTER_BYTES = gl.constexpr(COUNTERS)
BLOCK_TOKENS = gl.constexpr(TMA_TOKENS)
memory = gl.shared_memory_descriptor
view = memory.reinterpret if hasattr(memory, "reinterpret") else memory._reinterpret  # Triton 3.6
X_MAP = gl.constexpr(2)  # numbers of parameters: a map is followed by two sizes and two strides
A_MAP = gl.constexpr(7)


@gluon.constexpr_function
def alike(cluster, dimensions):
    """How a layout goes on over the cluster: every block holds the same places, and numbers of its
    own in them."""
    return [[0] * dimensions for _ in range(cluster.bit_length() - 1)]


@gluon.constexpr_function
def box_layout(cluster):
    """``[tokens or columns, hidden dimensions]`` in shared memory, as ``wgmma`` reads them."""
    return gl.NVMMASharedLayout(128, 16, 2, cga_layout=alike(cluster, 2))


@gluon.constexpr_function
def product_layout(cluster, columns):
    """``[tokens, columns]`` as ``wgmma`` leaves them."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, columns, 16], alike(cluster, 2))


@gluon.constexpr_function
def thread_layout(cluster):
    """One number a thread."""
    return gl.BlockedLayout([1], [32], [4], [0], alike(cluster, 1))


@gluon.constexpr_function
def choice_layout(cluster):
    """``[tokens, slots]``, all of them in every warp."""
    return gl.BlockedLayout([2, 1], [32, 1], [4, 1], [1, 0], alike(cluster, 2))


@gluon.constexpr_function
def map_asm(number):
    """The address of the kernel's parameter ``number``, a tensor map."""
    return f"mov.b64 $0, cluster_tma_kernel_param_{number}; cvta.param.u64 $0, $0;"


@gluon.constexpr_function
def begin_asm(counters, stages, stage_bytes, arriving):
    """The address of the counting barriers: one for each of ``stages`` copies of ``stage_bytes``,
    and one for ``arriving`` bytes. Tells the cluster that the block runs."""
    asm = (
        f"{{ mov.u32 $0, global_smem; add.u32 $0, $0, {counters}; "
        ".reg .pred first; .reg .b32 thread; mov.u32 thread, %tid.x; setp.eq.u32 first, thread, 0; "
    )
    for stage in range(stages + 1):
        asm += f"@first mbarrier.init.shared::cta.b64 [$0+{8 * stage}], 1; "
    asm += "@first fence.mbarrier_init.release.cluster; "
    for stage in range(stages + 1):
        asm += (
            f"@first mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0+{8 * stage}], "
            f"{stage_bytes if stage < stages else arriving}; "
        )
    return asm + "bar.sync 0; barrier.cluster.arrive.relaxed.aligned; }"


@gluon.constexpr_function
def again_asm(stages, stage_bytes):
    """All warps are done with A; the barriers of the stages count ``stage_bytes`` once more."""
    asm = (
        "{ bar.sync 0; "
        ".reg .pred first; .reg .b32 thread; mov.u32 thread, %tid.x; setp.eq.u32 first, thread, 0; "
    )
    for stage in range(stages):
        asm += (
            f"@first mbarrier.arrive.expect_tx.shared::cta.b64 _, [$1+{8 * stage}], {stage_bytes}; "
        )
    return asm + "bar.sync 0; mov.u32 $0, 0; }"


# To where, by which map, the first hidden dimension, the first row, the counting barrier; whether
# this thread copies.
COPY_ASM = gl.constexpr(
    "{ .reg .pred mine; setp.ne.u32 mine, $6, 0; "
    "@mine cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[$1], [$2, {$3, $4}], [$5]; mov.u32 $0, 0; }"
)


@gluon.constexpr_function
def copied_asm(stage):
    """Waits for the copies of a stage: those of x and A, or of A once more."""
    return (
        "{ .reg .pred done; LRAGENT_WAIT: "
        f"mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [$1+{8 * stage}], $2; "
        "@!done bra LRAGENT_WAIT; mov.u32 $0, 0; }"
    )


# Every block of the cluster runs.
RUNNING_ASM = gl.constexpr("barrier.cluster.wait.aligned; mov.u32 $0, 0;")

RANK_ASM = gl.constexpr("mov.u32 $0, %cluster_ctarank;")

# Four values of a thread to an address of a block's shared memory, and to its barrier.
SEND_ASM = gl.constexpr(
    "{ .reg .b32 there, counter; "
    "mapa.shared::cluster.u32 there, $4, $8; mapa.shared::cluster.u32 counter, $16, $8; "
    "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [there], {$12, $13, $14, $15}, "
    "[counter]; mov.u32 $0, 0; mov.u32 $1, 0; mov.u32 $2, 0; mov.u32 $3, 0; }"
)
SEND_REGISTERS = gl.constexpr(",".join(["=r"] * 4 + ["r"] * 16))


@gluon.jit
def number(code: gl.constexpr):
    """What code gives that takes no arguments."""
    return gl.inline_asm_elementwise(code, "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def tensor_map(parameter: gl.constexpr):
    """The address of a tensor map."""
    code: gl.constexpr = map_asm(parameter)
    return gl.inline_asm_elementwise(code, "=l", [], dtype=gl.int64, is_pure=False, pack=1)


@gluon.jit
def copy(to, by_map, first_d, row, counter, mine):
    """Start to copy a box, in the threads that are to."""
    gl.inline_asm_elementwise(
        COPY_ASM, "=r,r,l,r,r,r,r", [to, by_map, first_d, row, counter, mine.to(gl.int32)],
        dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def sent_place(t, c, BLOCK_C: gl.constexpr):
    """Where a token's and column's sum lies in what is sent: the four values of a thread and the
    threads of a warp follow one another, as `product_layout` has them."""
    piece = t // 16 * (BLOCK_C // 8) + c // 8
    return piece * 128 + t % 8 * 16 + c % 8 // 2 * 4 + t // 8 % 2 * 2 + c % 2


@gluon.jit(do_not_specialize=("tokens",))
def cluster_tma_kernel(
    out_ptr,  # [T, S, W]
    index_ptr,
    x_desc,  # [tokens, D]
    a_desc,  # [n * W, D]
    tokens,
    stride_index,
    SLOTS: gl.constexpr,
    WIDTH: gl.constexpr,
    D: gl.constexpr,
    BLOCK_C: gl.constexpr,
    STAGES: gl.constexpr,
    PIECES: gl.constexpr,
):
    """Grid, of clusters: (blocks of tokens, blocks of slot-and-column)."""
    CLUSTER: gl.constexpr = gl.num_ctas()
    WARPS: gl.constexpr = gl.num_warps()
    BLOCK_T: gl.constexpr = BLOCK_TOKENS
    TILE: gl.constexpr = BLOCK_T * BLOCK_C
    PART: gl.constexpr = TILE // CLUSTER
    SHARE: gl.constexpr = D // CLUSTER
    BOXES: gl.constexpr = SHARE // BOX_D
    EACH: gl.constexpr = BOXES // STAGES  # boxes of x, and of A, in a stage
    OF_SLOT: gl.constexpr = min(WIDTH, BLOCK_C)  # columns of a slot
    BLOCK_S: gl.constexpr = BLOCK_C // OF_SLOT
    X_BYTES: gl.constexpr = BOXES * BLOCK_T * BOX_BYTES
    DATA: gl.constexpr = X_BYTES + BOXES * BLOCK_C * BOX_BYTES
    A_FIRST: gl.constexpr = BOXES * BLOCK_T // BLOCK_C  # x takes as much as so many boxes of A

    # One piece of shared memory, seen as boxes of x or of A; the end of it is not boxes at all.
    B: gl.constexpr = box_layout(CLUSTER)
    DTYPE: gl.constexpr = x_desc.dtype
    x_boxes = gl.allocate_shared_memory(DTYPE, [PIECES, BLOCK_T, BOX_D], B)
    a_boxes = view(x_boxes, DTYPE, [PIECES * BLOCK_T // BLOCK_C, BLOCK_C, BOX_D], B)
    STAGE_BYTES: gl.constexpr = (BLOCK_T + BLOCK_C) * BOX_BYTES * EACH
    counters = number(begin_asm(DATA, STAGES, STAGE_BYTES, TILE * 4))
    data = counters - DATA
    received = counters + COUNTER_BYTES
    rank = number(RANK_ASM)
    x_map = tensor_map(X_MAP)
    a_map = tensor_map(A_MAP)

    # The last cluster takes some tokens of the one before again: copies of rows that are not there,
    # which are zeros, take longer than those of rows. Both write the same.
    first_t = gl.maximum(gl.minimum(gl.program_id(0) * BLOCK_T, tokens - BLOCK_T), 0)
    first_c = gl.program_id(1) * BLOCK_C
    first_s = first_c // WIDTH
    first_choice = index_ptr + first_t.to(gl.int64) * stride_index + first_s

    # A thread copies a box of x, or a slot's part of a box of A. The latter waits for the choice of
    # the block's first token, which is loaded before.
    thread = gl.arange(0, WARPS * 32, thread_layout(CLUSTER))
    warp, lane = thread // 32, thread % 32
    a_slot = gl.minimum(warp, BLOCK_S - 1)
    chosen_a = gl.load(first_choice + a_slot)
    OF_WARP: gl.constexpr = (BOXES + WARPS - 1) // WARPS
    x_box = warp * OF_WARP + lane
    x_mine = (lane < OF_WARP) & (x_box < BOXES)
    copy(
        data + x_box * (BLOCK_T * BOX_BYTES), x_map, rank * SHARE + x_box * BOX_D, first_t,
        counters + x_box // EACH * 8, x_mine,
    )  # fmt: skip
    a_mine = (lane < BOXES) & (warp < BLOCK_S)
    a_to = data + X_BYTES + lane * (BLOCK_C * BOX_BYTES) + a_slot * (OF_SLOT * BOX_BYTES)
    a_d, a_counter = rank * SHARE + lane * BOX_D, counters + lane // EACH * 8
    a_row = gl.maximum(chosen_a, 0) * WIDTH + first_c % WIDTH
    copy(a_to, a_map, a_d, a_row, a_counter, a_mine)

    M: gl.constexpr = product_layout(CLUSTER, BLOCK_C)
    out = gl.zeros([BLOCK_T, BLOCK_C], gl.float32, M).reshape([BLOCK_T, BLOCK_S, OF_SLOT])
    PAIR: gl.constexpr = gl.SliceLayout(2, out.type.layout)
    offs_t = first_t + gl.arange(0, BLOCK_T, gl.SliceLayout(1, PAIR))
    offs_s = gl.arange(0, BLOCK_S, gl.SliceLayout(0, PAIR))
    rows = gl.minimum(offs_t, tokens - 1).to(gl.int64) * stride_index + first_s
    chosen = gl.load(first_choice + offs_s)
    choices = gl.load(index_ptr + rows[:, None] + offs_s[None, :])
    # The same where every warp sees all: they agree without a barrier on what is left.
    L: gl.constexpr = choice_layout(CLUSTER)
    every_t = first_t + gl.arange(0, BLOCK_T, gl.SliceLayout(1, L))
    every_s = gl.arange(0, BLOCK_S, gl.SliceLayout(0, L))
    every_row = gl.minimum(every_t, tokens - 1).to(gl.int64) * stride_index + first_s
    seen = gl.load(first_choice + every_s)
    every = gl.load(index_ptr + every_row[:, None] + every_s[None, :])
    left = (every_t < tokens)[:, None] & (every_s >= 0)[None, :]
    more = 1
    phase = 0
    # Tokens with the same choice of A together; usually all.
    while more > 0:
        left = left & (every != seen[None, :])
        leader = gl.min(gl.min(gl.where(left, every_t[:, None], 2147483647), 1), 0)
        more = (leader < 2147483647).to(gl.int32)
        acc = gl.zeros([BLOCK_T, BLOCK_C], gl.float32, M)
        for box in gl.static_range(BOXES):
            if box % EACH == 0:
                gl.inline_asm_elementwise(
                    copied_asm(box // EACH), "=r,r,r", [counters, phase],
                    dtype=gl.int32, is_pure=False, pack=1,
                )  # fmt: skip
            a_box = a_boxes.index(A_FIRST + box).permute((1, 0))
            acc = warpgroup_mma(x_boxes.index(box), a_box, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        keep = ((choices == chosen[None, :]) & (choices >= 0))[:, :, None]
        out = gl.where(keep, acc.reshape([BLOCK_T, BLOCK_S, OF_SLOT]), out)
        if more > 0:
            leading_choice = index_ptr + leader.to(gl.int64) * stride_index + first_s
            chosen_a = gl.load(leading_choice + a_slot)
            chosen = gl.load(leading_choice + offs_s)
            seen = gl.load(leading_choice + every_s)
            gl.inline_asm_elementwise(
                again_asm(STAGES, BLOCK_C * BOX_BYTES * EACH), "=r,r", [counters],
                dtype=gl.int32, is_pure=False, pack=1,
            )  # fmt: skip
            a_row = gl.maximum(chosen_a, 0) * WIDTH + first_c % WIDTH
            copy(a_to, a_map, a_d, a_row, a_counter, a_mine)
            phase = phase ^ 1
    sums = gl.convert_layout(out.reshape([BLOCK_T, BLOCK_C]), M, assert_trivial=True)

    # Over the cluster: place e is added up by block e // PART, which gets [CLUSTER, PART].
    number(RUNNING_ASM)
    t = gl.arange(0, BLOCK_T, gl.SliceLayout(1, M))[:, None]
    c = gl.arange(0, BLOCK_C, gl.SliceLayout(0, M))[None, :]
    e = sent_place(t, c, BLOCK_C)
    gl.inline_asm_elementwise(
        SEND_ASM, SEND_REGISTERS,
        [received + (rank * PART + e % PART) * 4, e // PART, sums, counters + STAGES * 8],
        dtype=gl.int32, is_pure=False, pack=4,
    )  # fmt: skip
    gl.inline_asm_elementwise(
        ARRIVED_ASM, "=r,r", [counters + STAGES * 8], dtype=gl.int32, is_pure=False, pack=1
    )
    R: gl.constexpr = sum_layout(CLUSTER, WARPS, PART)
    e = gl.arange(0, TILE, gl.SliceLayout(0, R))
    block = gl.arange(0, CLUSTER, gl.SliceLayout(1, R))
    parts = gl.inline_asm_elementwise(
        READ_ASM, "=r,=r,r,r", [received + (block[:, None] * PART + (e % PART)[None, :]) * 4],
        dtype=gl.float32, is_pure=False, pack=2,
    )  # fmt: skip
    total = gl.sum(parts, 0)
    # The inverse of `sent_place`.
    t = e // (BLOCK_C * 16) * 16 + e % 4 // 2 * 8 + e % 128 // 16
    c = e // 128 % (BLOCK_C // 8) * 8 + e % 16 // 4 * 2 + e % 2
    out_ptrs = out_ptr + (first_t + t).to(gl.int64) * (SLOTS * WIDTH) + first_c + c
    gl.store(out_ptrs, total.to(out_ptr.dtype.element_ty), mask=first_t + t < tokens)
    x_boxes._keep_alive()

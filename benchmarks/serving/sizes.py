"""Sizes of a run: the full ones, and tiny ones that a CPU gets through in a minute or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.common.adapters import AGENTS
from benchmarks.common.shapes import LLAMA_8B, TINY, Shape
from benchmarks.serving.parts import TIGHT_SHARE, Sizes
from benchmarks.serving.plan import (
    AGENT_RANK,
    HANDOVER,
    OPEN,
    TIGHT,
    TRACE,
    TRACE_RANK,
    WORKFLOW,
    Setup,
    Step,
)
from benchmarks.serving.policies import keeps_copies
from benchmarks.serving.workload import trace_length

FULL = Sizes(
    vocab=LLAMA_8B.vocab,
    repeats=3,
    workflow_repeats=3,
    trace_repeats=3,
    workflow_seconds=120,
    contexts=(1024, 4096, 16384, 32768),
    workflows=((8, 2048), (16, 8192)),
    workflow_new=(64, 200),
    chunks=(256, 512, 1024, 2048, 4096, 8192, 16384),
    tight=(8, 4096),
    tight_share=TIGHT_SHARE,
    rates=(0.5, 1, 2, 4, 8, 16, 32),
    open_seconds=20,
    open_limit=60,
    longest=32768,
)
SMALL = Sizes(
    vocab=TINY.vocab,
    repeats=2,
    workflow_repeats=2,
    trace_repeats=2,
    workflow_seconds=60,
    contexts=(64, 256),
    workflows=((2, 96),),
    workflow_new=(6, 20),
    chunks=(16, 64),
    tight=(3, 64),
    tight_share=TIGHT_SHARE,
    rates=(1, 4),
    open_seconds=3,
    open_limit=20,
    longest=700,
)
# Room for LR slots and for pages that are not full.
SHARED_ROOM = 1.02


def kv_budget(shape: Shape, sizes: Sizes, item_bytes: int) -> int:
    """KV bytes that hold the base pages of all tight sessions but no second copy."""
    sessions, chunk = sizes.tight
    tokens = sessions * trace_length(chunk)
    return int(sizes.tight_share * tokens * shape.base_elements * item_bytes)


def shared_settings(
    step: Step, engines: int, shape: Shape, sizes: Sizes, item_bytes: int
) -> dict[str, Any]:
    """Arguments of ``vllm.LLM`` for engines that share a device: a KV budget for what they run.

    Args:
        step: one of them.
        engines: how many they are.
        shape: of the model.
        sizes: what is run.
        item_bytes: size of an element of the cache.
    """

    def bytes_of(tokens: int) -> int:
        return int(SHARED_ROOM * tokens * shape.base_elements * item_bytes)

    settings = step.setup.settings
    # vLLM wants this much to be free at the start; the budget is what it takes.
    shared: dict[str, Any] = {"gpu_memory_utilization": 0.7 / engines}
    room = settings.get("kv_cache_memory_bytes") or bytes_of(_tokens_at_once(step, sizes))
    return {**shared, "kv_cache_memory_bytes": room}


def _tokens_at_once(step: Step, sizes: Sizes) -> int:
    """Most tokens that what is measured on an engine keeps in the cache."""
    generate, new = sizes.workflow_new
    tokens = [step.setup.settings["max_model_len"]]
    if HANDOVER in step.setup.parts:
        tokens.append(2 * max(sizes.contexts))
    if TRACE in step.setup.parts:
        copies = len(AGENTS) if any(map(keeps_copies, step.policies)) else 1
        tokens.append(copies * trace_length(max(sizes.chunks)))
    if WORKFLOW in step.setup.parts:
        grown = 9 * generate + 8 * new
        tokens += [count * (length + grown) for count, length in sizes.workflows]
    return max(tokens)


def setups_of(
    parts: Sequence[str],
    shape: Shape,
    sizes: Sizes,
    common: dict[str, Any],
    item_bytes: int,
    trace_rank: int = TRACE_RANK,
) -> list[Setup]:
    """The engines that the parts need: one setting for parts of the same rank, one for the tight
    budget.

    Args:
        parts: names of parts.
        shape: of the model.
        sizes: what is run.
        common: arguments of ``vllm.LLM`` for all engines.
        item_bytes: size of an element of the cache.
        trace_rank: of the adapters that run the traces. That of the other parts saves the start
            of further engines.
    """
    generate, new = sizes.workflow_new
    grown = max(length for _, length in sizes.workflows) + 9 * (generate + new)
    longest = {
        HANDOVER: max(sizes.contexts),
        WORKFLOW: grown,
        OPEN: sizes.longest,
        TRACE: trace_length(max(sizes.chunks)),
        TIGHT: trace_length(sizes.tight[1]),
    }

    def setup(name: str, rank: int, names: Sequence[str], **more: Any) -> list[Setup]:
        wanted = tuple(part for part in names if part in parts)
        if not wanted:
            return []
        length = -(-(max(longest[part] for part in wanted) + 1) // 512) * 512
        settings = {**common, "max_model_len": length, "max_lora_rank": rank, **more}
        return [Setup(name, rank, wanted, settings)]

    budget = {"kv_cache_memory_bytes": kv_budget(shape, sizes, item_bytes)}
    agents = (HANDOVER, WORKFLOW, OPEN)
    same = trace_rank == AGENT_RANK
    return [
        *setup("agents", AGENT_RANK, (*agents, TRACE) if same else agents),
        *([] if same else setup("trace", trace_rank, (TRACE,))),
        *setup("tight", TRACE_RANK, (TIGHT,), **budget),
    ]


def with_options(sizes: Sizes, **given: Any) -> Sizes:
    """The sizes with the options that were given; those that are None stay."""
    return replace(sizes, **{name: value for name, value in given.items() if value is not None})

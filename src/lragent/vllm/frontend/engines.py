"""Calls to the engine cores that a server has: one, or one for each data-parallel rank."""

from __future__ import annotations

import asyncio
from typing import Any


async def call_engines(core: Any, method: str, *args: Any) -> dict[int, Any]:
    """Call a method of every engine core; results by the index that vLLM's metrics give it too.

    Args:
        core: vLLM's client of them. Its own call returns the first one's result only.
        method: name of the method.
        args: what it gets.
    """
    engines = getattr(core, "core_engines", ())
    if len(engines) < 2:
        index = int.from_bytes(engines[0], "little") if engines else 0
        return {index: await core.call_utility_async(method, *args)}
    results = await asyncio.gather(
        *(core._call_utility_async(method, *args, engine=engine) for engine in engines)
    )
    indices = (int.from_bytes(engine, "little") for engine in engines)
    return dict(zip(indices, results, strict=True))

"""Measures one engine: ``python -m benchmarks.serving.worker task.json answer.json``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.files import load, save
from benchmarks.serving import parts
from benchmarks.serving.parts import Row, Sizes
from benchmarks.serving.plan import HANDOVER, OPEN, TIGHT, TRACE, WORKFLOW, Task, sizes_of
from benchmarks.serving.policies import is_stock
from benchmarks.serving.turns import Turns

PARTS: dict[str, Callable[[Any, Sequence[str], Sizes, Turns], Iterator[Row]]] = {
    HANDOVER: parts.handover,
    WORKFLOW: parts.workflows,
    OPEN: parts.open_loop,
    TRACE: parts.traces,
    TIGHT: parts.tight_traces,
}


def run(task: Task, keep: Callable[[dict[str, Any]], None]) -> None:
    """Start the engine and measure; ``keep`` gets all there is after each row."""
    from benchmarks.serving.engine import VllmEngine

    begin = time.perf_counter()
    engine = VllmEngine(task.engine, task.model, task.adapters, task.settings)
    if not is_stock(task.engine):
        check_source(task.source)
    start = round(time.perf_counter() - begin, 1)
    answer: dict[str, Any] = {"engine": {**engine.facts(), "start_s": start}, "rows": []}

    def keep_all(done: bool) -> None:
        keep({**answer, "seconds": round(time.perf_counter() - begin, 1), "done": done})

    keep_all(False)
    sizes = sizes_of(task.sizes)
    turns = Turns(Path(task.turns) if task.turns else None, task.place, task.of, task.most)
    turns.begin()
    for part in task.parts:
        for row in PARTS[part](engine, task.measured(part), sizes, turns):
            print(json.dumps(row), flush=True)
            answer["rows"].append(row)
            keep_all(False)
    keep_all(True)


def check_source(source: str) -> None:
    """Refuse to measure another plugin than the one named, or none.

    Raises:
        SystemExit: vLLM loaded no plugin, or that of another source tree.
    """
    module = sys.modules.get("lragent")
    found = Path(module.__file__ or "") if module else None
    if found is None or not found.resolve().is_relative_to(Path(source).resolve()):
        sys.exit(f"vLLM loaded lragent from {found}, not from {source}")


def main() -> None:
    """Read the task, run it, write the answer, which is whole at any time."""
    source, target = map(Path, sys.argv[1:])
    run(Task(**load(source)), lambda answer: save(target, answer))


if __name__ == "__main__":
    main()

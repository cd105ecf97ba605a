"""Runs one job: ``python -m serving_parts.engine_process job.json answer.json``.

The job is read once a line has come on standard input. vLLM, whose import takes many seconds, is
imported before, while another engine is still busy.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import gate, parts
from .jobs import HANDOVER, OPEN, TIGHT, TRACE, WORKFLOW, Job, sizes_of
from .parts import Row, Sizes
from .policies import GUEST, STOCK
from .turns import Turns

PARTS: dict[str, Callable[[Any, Sequence[str], Sizes, Turns], Iterator[Row]]] = {
    HANDOVER: parts.handover,
    WORKFLOW: parts.workflows,
    OPEN: parts.open_loop,
    TRACE: parts.traces,
    TIGHT: parts.tight_traces,
}


def run(job: Job, keep: Callable[[dict[str, Any]], None]) -> None:
    """Start the engine, compare and measure; ``keep`` gets all there is after each row."""
    from .vllm_engine import VllmEngine

    begin = time.perf_counter()
    engine = VllmEngine(job.engine, job.model, job.adapters, job.settings)
    sizes = sizes_of(job.sizes)
    answer: dict[str, Any] = {
        "engine": {**engine.facts(), "start_s": round(time.perf_counter() - begin, 1)},
        "rows": [],
    }

    def keep_all(done: bool) -> None:
        seconds = round(time.perf_counter() - begin, 1)
        keep({**answer, "seconds": seconds, "done": done})

    turns = Turns(Path(job.turns) if job.turns else None, job.place, job.of, job.most)
    turns.begin()
    with turns.turn():
        if job.gate is not None and job.engine == STOCK:
            engine.use(STOCK)
            answer["chains"] = gate.to_json(gate.make_chains(engine, sizes.vocab, *job.gate))
        elif job.gate is not None:
            engine.use(GUEST)
            chains = json.loads(Path(job.chains_from).read_text())["chains"]
            answer["tokens"] = gate.answer(engine, gate.from_json(chains))
        keep_all(False)
    for part in job.parts:
        for row in PARTS[part](engine, job.measured(part), sizes, turns):
            print(json.dumps(row), flush=True)
            answer["rows"].append(row)
            keep_all(False)
    keep_all(True)


def main() -> None:
    """Read the job, run it, write the answer, which is whole at any time."""
    import vllm  # noqa: F401

    source, target = map(Path, sys.argv[1:])
    if not sys.stdin.readline():
        return  # nobody is there any more

    def keep(answer: dict[str, Any]) -> None:
        part = target.with_suffix(".part")
        part.write_text(json.dumps(answer))
        part.replace(target)

    run(Job(**json.loads(source.read_text())), keep)


if __name__ == "__main__":
    main()

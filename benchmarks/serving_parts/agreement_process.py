"""Runs engines one after the other: ``python -m serving_parts.agreement_process``.

Each line of standard input is a JSON list of two files: the job, and where its answer goes.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .agreement_engines import Embedded, Vllm
from .agreement_everywhere import ask_everywhere, ask_without
from .agreement_program import free, replay, rotated, steps_from_json
from .policies import STOCK


def run_vllm(job: dict[str, Any]) -> dict[str, Any]:
    """Text after each prompt, the engine's own tokens, then an adapter of all modules."""
    engine = Vllm(
        job["base_apart"], job["others"],
        job["policy"], job["model"], job["adapters"], job["settings"],
    )  # fmt: skip
    try:
        forced = replay(engine, steps_from_json(job["forced"]), "forced")
        steps, answers = free(engine, job["ids"], job["length"])
        controls = {}
        if job["policy"] == STOCK:
            controls["without"] = ask_without(engine, job["ids"], job["length"])
        return {
            "facts": engine.facts(),
            "forced": asdict(forced),
            "steps": [asdict(step) for step in steps],
            "free": asdict(answers),
            "everywhere": ask_everywhere(engine, job["ids"], job["length"]),
            **controls,
        }
    finally:
        engine.close()


def run_embedded(job: dict[str, Any]) -> dict[str, Any]:
    """Text after each prompt, then every vLLM engine's tokens."""
    engine = Embedded(job["model"], job["adapters"], job["policy"], job["settings"])
    forced = steps_from_json(job["forced"])
    answer: dict[str, Any] = {"facts": {}, "forced": asdict(replay(engine, forced, "forced"))}
    if job["policy"] == "isolated":
        answer["wide"] = asdict(replay(engine, forced, "wide", wide=True))
        answer["rotated"] = asdict(replay(engine, rotated(forced), "rotated"))
    answer["replays"] = {
        name: asdict(replay(engine, steps_from_json(steps), name))
        for name, steps in job["replays"].items()
    }
    return answer


def main() -> None:
    """Take jobs until there are no more; an error ends the process."""
    for line in sys.stdin:
        source, target = map(Path, json.loads(line))
        job = json.loads(source.read_text())
        begin = time.perf_counter()
        answer = run_embedded(job) if "replays" in job else run_vllm(job)
        answer["facts"]["seconds"] = round(time.perf_counter() - begin, 1)
        part = target.with_suffix(".part")
        part.write_text(json.dumps(answer))
        part.replace(target)


if __name__ == "__main__":
    main()

"""Asks one engine everything: ``python -m tests.gpu.agreement.worker job.json answer.json``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common.files import load, save
from tests.gpu.agreement.cases import STOCK
from tests.gpu.agreement.engines import Embedded, Vllm
from tests.gpu.agreement.everywhere import ask_everywhere, ask_without
from tests.gpu.agreement.program import free, replay, rotated, steps_from_json


def run_vllm(job: dict[str, Any]) -> dict[str, Any]:
    """Text after each prompt, the engine's own tokens, then an adapter of all modules."""
    engine = Vllm(job["others"], job["policy"], job["model"], job["adapters"], job["settings"])
    forced = replay(engine, steps_from_json(job["forced"]), "forced")
    steps, answers = free(engine, job["ids"], job["length"])
    controls = {}
    if job["policy"] == STOCK:
        controls["without"] = ask_without(engine, job["ids"], job["length"])
    return {
        "forced": asdict(forced),
        "steps": [asdict(step) for step in steps],
        "free": asdict(answers),
        "everywhere": ask_everywhere(engine, job["ids"], job["length"]),
        **controls,
    }


def run_embedded(job: dict[str, Any]) -> dict[str, Any]:
    """Text after each prompt, then every vLLM engine's tokens."""
    engine = Embedded(job["model"], job["adapters"], job["policy"], job["settings"])
    forced = steps_from_json(job["forced"])
    answer: dict[str, Any] = {"forced": asdict(replay(engine, forced, "forced"))}
    if job["policy"] == "isolated":
        answer["wide"] = asdict(replay(engine, forced, "wide", wide=True))
        answer["rotated"] = asdict(replay(engine, rotated(forced), "rotated"))
    answer["replays"] = {
        name: asdict(engine.follow(steps_from_json(steps), name))
        for name, steps in job["replays"].items()
    }
    return answer


def main() -> None:
    """Read the job, ask, write the answers."""
    source, target = map(Path, sys.argv[1:])
    job = load(source)
    save(target, run_embedded(job) if "replays" in job else run_vllm(job))


if __name__ == "__main__":
    main()

"""One step of `benchmarks.quality.run`, in a process of its own.

    python -m benchmarks.quality.job base|roles:NAME|answers:NAME|meter:NAME|similarity:NAME|speed \
        settings.json

A step that was cut is continued by the same command. SIGTERM makes it keep what it has.
"""

from __future__ import annotations

import gzip
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.common.files import load, save
from benchmarks.quality import (
    READING,
    READING_HELD_OUT,
    ROLES_HELD_OUT,
    ROLES_TRAIN,
    TASK_FILE,
    TEXT,
)
from benchmarks.quality.arms import ANSWER_ARMS, ROLES, TRAININGS, file_of, seeded, unseeded

Settings = dict[str, Any]


def base(s: Settings, cancel: threading.Event) -> None:
    """Fine-tune the base model on reading."""
    from benchmarks.quality.base import train_base

    pack, work = Path(s["pack"]), Path(s["work"])
    train_base(
        s["model"],
        pack / READING,
        pack / READING_HELD_OUT,
        work / "reader",
        steps=s["base_steps"],
        batch_size=s["base_batch"],
        learning_rate=s["base_rate"],
        device=s["device"],
    )


def roles(s: Settings, cancel: threading.Event, name: str) -> None:
    """Train the three roles in one way."""
    from lragent.training import TrainConfig, train

    pack, work = Path(s["pack"]), Path(s["work"])
    training, seed = unseeded(name)
    together = len(ROLES) if TRAININGS[training].get("mode") == "joint" else 1
    config = TrainConfig.model_validate(
        {
            "data": (pack / ROLES_TRAIN,),
            "eval_data": (pack / ROLES_HELD_OUT,),
            "model": reader(s),
            "out": work / "roles" / name,
            "roles": ROLES,
            "rank": s["rank"],
            "alpha": 2 * s["rank"],
            "dropout": 0.0,
            "max_steps": s["role_steps"] * together,
            "batch_size": s["role_batch"],
            "accumulation": 1,
            "learning_rate": s["role_rate"],
            "max_length": 1024,
            "checkpoint_every": 100,
            "device": s["device"],
            "seed": seed,
            **TRAININGS[training],
        }
    )
    report = train(config, show_progress=False)
    save(work / "roles" / name / "report.json", report.to_json())


def answers(s: Settings, cancel: threading.Event, name: str) -> None:
    """Let one arm answer the questions of every task."""
    for task in s["tasks"]:
        print(f"{name}: {task}: {answer_task(s, cancel, name, task)}", flush=True)


def answer_task(
    s: Settings,
    cancel: threading.Event,
    name: str,
    task: str,
    count: int | None = None,
    at_once: int | None = None,
    folder: str = "answers",
) -> Settings:
    """Let an arm answer `count` questions of a task; returns how many there are now, and seconds.

    Seconds count from when the engine is there.
    """
    from lragent.evaluation.tasks import Agents, Task, answer_questions

    found = Task.load(Path(s["pack"]) / TASK_FILE.format(task))
    found.questions = found.questions[: count or s["questions"][task]]
    own, seed = unseeded(name)
    arm = ANSWER_ARMS[own]
    agents = Agents(
        reader(s),
        {} if arm.training is None else adapters(s, seeded(arm.training, seed)),
        arm.policy,
        at_once=at_once or s["at_once"],
        engine=engine(s),
    )
    start = 0.0

    def started(done: int, total: int) -> None:
        nonlocal start
        start = start or time.monotonic()

    journal = Path(s["work"]) / folder / file_of(name) / f"{task}.jsonl"
    made = answer_questions(found, agents, journal, started, cancel)
    return {
        "questions": len(made),
        "exact": sum(answer.exact for answer in made) / max(1, len(made)),
        "seconds": round(time.monotonic() - start, 1),
    }


def speed(s: Settings, cancel: threading.Event) -> None:
    """The same questions one after another, and at once; nothing else should run beside it."""
    count, rows = s["speed_questions"], {}
    answer_task(s, cancel, s["speed_arm"], "hotpotqa", count, count, "speed-warm")
    for at_once in (count, 1):
        some = count if at_once > 1 else max(2, count // 8)
        made = answer_task(s, cancel, s["speed_arm"], "hotpotqa", some, at_once, f"speed-{at_once}")
        rows[str(at_once)] = made | {"questions_per_s": made["questions"] / made["seconds"]}
    save(Path(s["work"]) / "speed.json", rows)


def meter(s: Settings, cancel: threading.Event, name: str) -> None:
    """Score the roles of one training, teacher-forced, under every policy."""
    from lragent.evaluation import EvalConfig, EvaluationError, Inputs, evaluate, write_report
    from lragent.training.samples import read_samples

    pack, out = Path(s["pack"]), Path(s["work"]) / "meter" / name
    by_role, _ = read_samples([pack / ROLES_HELD_OUT], ROLES)
    text = gzip.decompress((pack / TEXT).read_bytes()).decode()
    inputs = Inputs([sample for found in by_role.values() for sample in found], text)
    config = EvalConfig(
        model=reader(s), adapters=adapters(s, name), device=s["device"], **s["meter"],
        kv_bytes=s["kv_bytes"],
    )  # fmt: skip
    evaluation = evaluate(config, inputs, out, cancel=cancel)
    try:
        write_report(evaluation, out / "report.html")
    except EvaluationError as error:  # packages of the report are missing; result.json is there
        print(error, flush=True)


def similarity(s: Settings, cancel: threading.Event, name: str) -> None:
    """Compare the caches of the roles of one training."""
    from lragent.engine.loader import load_model
    from lragent.evaluation.samples import encode_samples
    from lragent.evaluation.similarity import similarities
    from lragent.training.samples import read_samples

    model, tokenizer = load_model(reader(s), dtype=torch.float32, device=s["device"])
    by_role, _ = read_samples([Path(s["pack"]) / ROLES_HELD_OUT], ROLES)
    samples = encode_samples(by_role["reflect"][: s["contexts"]], tokenizer, "context")
    rows = similarities(model, adapters(s, name), [sample.context for sample in samples])
    save(
        Path(s["work"]) / "similarity" / f"{name}.json",
        {"rows": [row.model_dump(mode="json") for row in rows]},
    )


def reader(s: Settings) -> str:
    """The base model of the roles: the fine-tuned one, or the model as it is without that step."""
    return str(Path(s["work"]) / "reader") if s["base_steps"] else s["model"]


def adapters(s: Settings, training: str) -> dict[str, Path]:
    """The folders of a training's roles."""
    return {role: Path(s["work"]) / "roles" / training / role for role in ROLES}


def engine(s: Settings) -> dict[str, Any]:
    """Arguments of every engine."""
    return {
        "device": s["device"],
        "kv_bytes": s["kv_bytes"],
        "max_num_batched_tokens": s["max_batch_tokens"],
    }


def main() -> None:
    """Command line."""
    step, name = [*sys.argv[1].split(":", 1), ""][:2]
    settings = load(Path(sys.argv[2]))
    cancel = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancel.set())
    steps: dict[str, Callable[..., None]] = {
        "base": base,
        "roles": roles,
        "answers": answers,
        "meter": meter,
        "similarity": similarity,
        "speed": speed,
    }
    steps[step](settings, cancel, *([name] if name else []))
    if not cancel.is_set():
        done = Path(settings["work"]) / "done" / file_of(sys.argv[1])
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()


if __name__ == "__main__":
    main()

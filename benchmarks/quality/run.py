"""Train a reader and its roles, let the roles answer under each policy, and write the results.

    python -m benchmarks.quality.pack --data FOLDER --out build/quality
    python -m benchmarks.quality.run --pack build/quality --work build/quality-work \
        --out benchmarks/results --seconds 560

Each step runs in a process (`job.py`), beside others, as soon as those that it needs are done. A
step that fails is tried once more; what needs a step that is missing is left out. After `--seconds`
what runs is stopped; the same command goes on from there. Whenever it ends it writes
`quality-<device>.json` with everything there is by then, and the single answers beside it. With
`--seeds` of more than one it is `quality-seeds-<device>.json`. The exit code is 1 where a step is
missing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.common.files import file_name, load, save
from benchmarks.common.machine import checked_out_commit, hardware
from benchmarks.common.sources import ROOT
from benchmarks.quality import LOG, TOGETHER
from benchmarks.quality.arms import (
    ANSWER_ARMS,
    REFERENCE,
    TRAININGS,
    file_of,
    seeded,
    unseeded,
)

GRACE = 20.0
"""Seconds that a step has to keep what it has, after it was asked to stop."""
PAUSE = 0.2
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Of each step, unless set otherwise: steps side by side share cores, and the GPU's memory, which
torch's allocator holds less of in vain when its segments grow."""
SETTINGS = "settings.json"
SPEED = "speed"
TRAINS = ("base", "roles")
VERSIONS = ("torch", "transformers", "peft", "bm25s", "numpy")
KEPT = ("key", "status", "answer", "exact", "f1", "steps", "calls", "tool_errors")
KEPT += ("prompt_tokens", "reused_tokens", "generated_tokens")


def all_steps(s: Mapping[str, Any]) -> list[str]:
    """The steps that are asked for, in the order in which they begin."""
    used = [name for name in ANSWER_ARMS if ANSWER_ARMS[name].training in (None, *s["trainings"])]
    seeds = range(s.get("seeds", 1))
    found = [
        *(["base"] if s["base_steps"] else []),
        *(f"roles:{seeded(name, seed)}" for seed in seeds for name in s["trainings"]),
        *(
            f"answers:{seeded(name, seed)}"
            for seed in seeds
            for name in used
            if name in s["arms"] or not s["arms"]
        ),
        *(f"meter:{name}" for name in s["meters"] if name in s["trainings"]),
        *(f"similarity:{name}" for name in s["trainings"]),
        *([SPEED] if s["speed_questions"] else []),
    ]
    return [step for step in found if step.split(":")[0] in s["steps"]]


def needs(step: str, s: Mapping[str, Any]) -> list[str]:
    """The steps whose results a step reads."""
    kind, _, name = step.partition(":")
    if kind == "base":
        return []
    training = name if kind in ("similarity", "meter") else None
    if kind in ("answers", SPEED):
        arm, seed = unseeded(name or s["speed_arm"])
        training = ANSWER_ARMS[arm].training
        training = training and seeded(training, seed)
    base = ["base"] if s["base_steps"] else []
    return base + ([f"roles:{training}"] if training else [])


def missing(steps: Iterable[str], work: Path) -> list[str]:
    """Those of the steps that are not done."""
    return [step for step in steps if not (work / "done" / file_of(step)).exists()]


def may_start(step: str, running: Iterable[str], s: Mapping[str, Any]) -> bool:
    """Whether there is room for a step beside those that run; speed is measured alone."""
    beside = list(running)
    trainings = [one for one in beside if one.split(":")[0] in TRAINS]
    if step.split(":")[0] in TRAINS and len(trainings) >= s["parallel_trainings"]:
        return False
    return len(beside) < s["parallel"] and not (beside and SPEED in (step, *beside))


def run_steps(
    steps: Sequence[str], s: Mapping[str, Any], work: Path, until: float
) -> dict[str, Any]:
    """Run the steps that are not done, each as soon as those that it needs are done.

    A step that fails is tried once more, after the others; what needs a step that is missing is
    left out. Returns each step's seconds and exit code (None: killed).
    """
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    waiting = missing(steps, work)
    running: dict[str, tuple[float, subprocess.Popen[bytes]]] = {}
    ended: dict[str, Any] = {}

    def end(step: str, code: int | None) -> None:
        start, _ = running.pop(step)
        if code and step not in ended:
            waiting.append(step)
        ended[step] = {"seconds": round(time.monotonic() - start, 1), "code": code}
        print(f"{step}: {ended[step]}", flush=True)

    try:
        while running or (waiting and time.monotonic() <= until):
            now = time.monotonic()
            for step in list(waiting) if now <= until else ():
                lacking = missing(needs(step, s), work)
                if lacking and not {*lacking} & {*waiting, *running}:
                    print(f"{step}: left out, as it needs {' and '.join(lacking)}", flush=True)
                    waiting.remove(step)
                elif not lacking and may_start(step, running, s):
                    waiting.remove(step)
                    process = subprocess.Popen(
                        [sys.executable, "-m", "benchmarks.quality.job", step,
                         str(work / SETTINGS)],
                        cwd=ROOT,
                        env=ENVIRONMENT | os.environ | {"PYTHONPATH": path},
                    )  # fmt: skip
                    running[step] = (now, process)
            for step, (_, process) in list(running.items()):
                code = process.poll()
                if code is not None:
                    end(step, code)
                elif now > until:
                    process.terminate()
            if now > until + GRACE:
                break
            time.sleep(PAUSE if now <= until else 1.0)
    finally:
        for step, (_, process) in list(running.items()):
            process.kill()
            process.wait()
            end(step, None)
    return ended


def collect(s: Mapping[str, Any], work: Path, commit: str) -> dict[str, Any]:
    """Everything that is there by now."""
    found: dict[str, Any] = {
        "settings": {k: v for k, v in s.items() if k not in ("pack", "work")},
        "commit": commit or checked_out_commit(ROOT),
        **hardware(),
        "versions": {"python": sys.version.split()[0], **{n: version(n) for n in VERSIONS}},
        "seconds": _if_there(work / "seconds.json") or {},
        "reader": _if_there(work / "reader" / LOG),
        "speed": _if_there(work / "speed.json"),
    }
    seeds = s.get("seeds", 1)
    found["roles"] = {
        name: _losses(report)
        for training in TRAININGS
        for name in (seeded(training, seed) for seed in range(seeds))
        if (report := _if_there(work / "roles" / name / "report.json"))
    }
    found["similarity"] = {
        name: rows["rows"]
        for name in TRAININGS
        if (rows := _if_there(work / "similarity" / f"{name}.json"))
    }
    found["meter"] = {
        name: _relative({k: v for k, v in result.items() if k != "cases"}, s.get("work", ""))
        for name in TRAININGS
        if (result := _if_there(work / "meter" / name / "result.json"))
    }
    found["tasks"] = _tasks(work, seeds)
    return found


def _relative(result: Any, folder: str) -> Any:
    """A result whose files are named from a folder on."""
    return json.loads(json.dumps(result).replace(f"{folder}/", "")) if folder else result


def _tasks(work: Path, seeds: int) -> dict[str, Any]:
    from lragent.evaluation.errors import EvaluationError
    from lragent.evaluation.tasks import compare

    found: dict[str, dict[str, list[Any]]] = {}
    for task, arms in read_answers(work, seeds).items():
        for name, answers in arms.items():
            found.setdefault(task, {}).setdefault(unseeded(name)[0], []).extend(answers)
    if len(found) > 1:
        found[TOGETHER] = _together(found)
    results = {}
    for task, arms in found.items():
        # Compared are the questions that all have answered: not for an arm that had just begun.
        most = max(map(len, arms.values()))
        arms = {name: answers for name, answers in arms.items() if 2 * len(answers) >= most}
        others = [name for name in arms if name != REFERENCE] if REFERENCE in arms else []
        references = {name: [REFERENCE] for name in others}
        try:
            results[task] = compare(task, arms, references).model_dump(mode="json")
        except EvaluationError as error:
            print(error, flush=True)
    return results


def _together(found: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    """To the questions of all tasks, the answers of each arm that has begun every task."""
    return {
        arm: [
            answer.model_copy(update={"key": f"{task} {answer.key}"})
            for task, arms in found.items()
            for answer in arms[arm]
        ]
        for arm in ANSWER_ARMS
        if all(arm in arms for arms in found.values())
    }


def read_answers(work: Path, seeds: int) -> dict[str, dict[str, list[Any]]]:
    """All answers in the journals, by task and arm with its seed."""
    from lragent.evaluation.tasks import Answer

    found: dict[str, dict[str, list[Any]]] = {}
    for arm in (seeded(name, seed) for name in ANSWER_ARMS for seed in range(seeds)):
        for path in sorted((work / "answers" / file_of(arm)).glob("*.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines()[1:]
            answers = [Answer.model_validate_json(line) for line in lines if line.endswith("}")]
            found.setdefault(path.stem, {})[arm] = answers
    return found


def summary(result: Mapping[str, Any], absent: Sequence[str]) -> str:
    """Exact answers and F1, in percent, of each arm on each task; and the steps that are absent."""
    cells = {
        task: {
            arm["arm"]: f"{arm['exact']['value']:.1f}, {arm['f1']['value']:.1f}"
            for arm in found["arms"]
        }
        for task, found in result["tasks"].items()
    }
    heads = [f"{task} ({found['questions']})" for task, found in result["tasks"].items()]
    rows = [["exact, F1 (questions)", *heads]]
    rows += [
        [arm, *(cells[task].get(arm, "") for task in cells)]
        for arm in ANSWER_ARMS
        if any(arm in scores for scores in cells.values())
    ]
    lines = ["".join(f"{cell:32}" for cell in row).rstrip() for row in rows]
    return "\n".join([*lines, f"missing: {', '.join(absent) or 'nothing'}"])


def write_answers(work: Path, path: Path, seeds: int = 1) -> None:
    """All single answers, without their transcripts, in one gzipped file of JSON lines."""
    lines = [
        json.dumps({"task": task, "arm": arm} | answer.model_dump(mode="json", include=set(KEPT)))
        for task, arms in read_answers(work, seeds).items()
        for arm, answers in arms.items()
        for answer in answers
    ]
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def _losses(report: Mapping[str, Any]) -> dict[str, Any]:
    """A training's report by role, with every tenth loss as the mean of ten."""
    roles = {}
    for role in report["roles"]:
        losses = role["losses"]
        means = [sum(part) / len(part) for i in range(0, len(losses), 10)
                 if (part := losses[i : i + 10])]  # fmt: skip
        kept = ("samples", "dropped", "steps", "seconds", "eval_loss", "a_digests")
        roles[role["role"]] = {k: role[k] for k in kept} | {
            "losses_by_10": [round(mean, 4) for mean in means]
        }
    return roles


def _if_there(path: Path) -> Any:
    return load(path) if path.is_file() else None


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def main(words: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--steps", default="base,roles,answers,meter,similarity,speed")
    parser.add_argument(
        "--trainings", default="isolated,neutral,base+lr", help=", ".join(TRAININGS)
    )
    parser.add_argument("--arms", default="", help="default: all; " + ", ".join(ANSWER_ARMS))
    parser.add_argument("--meters", default="isolated,neutral", help="trainings to score forced")
    parser.add_argument("--tasks", default="hotpotqa=300,scienceqa=400")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cuda", help="or cpu")
    parser.add_argument("--base-steps", type=int, default=800, help="0: no fine-tuning of the base")
    parser.add_argument("--base-batch", type=int, default=32)
    parser.add_argument("--base-rate", type=float, default=1e-4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--role-steps", type=int, default=300)
    parser.add_argument("--role-batch", type=int, default=32)
    parser.add_argument("--role-rate", type=float, default=1e-3)
    parser.add_argument(
        "--seeds", type=int, default=1, help="trainings of the roles, whose answers count together"
    )
    parser.add_argument("--at-once", type=int, default=200, help="conversations of an arm")
    parser.add_argument("--kv-bytes", type=int, default=12 << 30, help="of each engine")
    parser.add_argument("--max-batch-tokens", type=int, default=4096)
    parser.add_argument("--contexts", type=int, default=60, help="for the similarities")
    parser.add_argument("--meter-samples", type=int, default=20, help="of each role")
    parser.add_argument("--meter-lengths", default="512,1024,2048,4096", help="in tokens")
    parser.add_argument("--speed-questions", type=int, default=32, help="0: no such measurement")
    parser.add_argument("--speed-arm", default="neutral/neutral")
    parser.add_argument(
        "--parallel-trainings", type=int, default=3, help="at once; each took 10 to 20 GiB of a GPU"
    )
    parser.add_argument("--parallel", type=int, default=6, help="steps of any kind at once")
    parser.add_argument("--commit", default="", help="of the sources, where there is no git")
    arguments = parser.parse_args(words)
    if min(arguments.parallel, arguments.parallel_trainings, arguments.seeds) < 1:
        parser.error("--parallel, --parallel-trainings and --seeds have to be 1 or more")
    until = time.monotonic() + arguments.seconds - GRACE
    tasks = dict(pair.split("=") for pair in _listed(arguments.tasks))
    hidden = ("out", "seconds", "commit", "meter_samples", "meter_lengths")
    settings = {k: v for k, v in vars(arguments).items() if k not in hidden} | {
        "pack": str(arguments.pack.resolve()),
        "work": str(arguments.work.resolve()),
        "tasks": list(tasks),
        "questions": {name: int(count) for name, count in tasks.items()},
        "meter": _meter(arguments.meter_samples, arguments.meter_lengths),
        **{name: _listed(getattr(arguments, name)) for name in ("steps", "trainings", "arms")},
        "meters": _listed(arguments.meters),
    }
    work = arguments.work
    save(work / SETTINGS, settings)
    seconds: dict[str, Any] = _if_there(work / "seconds.json") or {}
    wanted = all_steps(settings)
    print(f"{len(missing(wanted, work))} of {len(wanted)} steps to run", flush=True)
    seconds |= run_steps(wanted, settings, work, until)
    save(work / "seconds.json", seconds)
    result = collect(settings, work, arguments.commit)
    seeds = arguments.seeds
    name = file_name(result["device"], "quality" if seeds == 1 else "quality-seeds")
    save(arguments.out / name, result)
    write_answers(work, arguments.out / name.replace(".json", "-answers.jsonl.gz"), seeds)
    absent = missing(wanted, work)
    print(summary(result, absent))
    print(arguments.out / name)
    sys.exit(bool(absent))


def _meter(samples: int, lengths: str) -> dict[str, Any]:
    few = max(2, samples // 5)
    counts = {"per_role": max(2, samples), "per_length": few, "per_hand_over": few}
    return {"readers": 1, "lengths": [int(length) for length in _listed(lengths)], **counts}


if __name__ == "__main__":
    main()

"""Pack what training and evaluation need into one small folder, for a machine without the data.

    python -m benchmarks.quality.pack --data FOLDER --out build/quality

FOLDER holds HotpotQA, 2WikiMultihopQA, MuSiQue and ScienceQA as `lragent.evaluation.tasks` reads
them: train files for training, the others for questions. No question is in both.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.quality import (
    READING,
    READING_HELD_OUT,
    ROLES_HELD_OUT,
    ROLES_TRAIN,
    TASK_FILE,
    TEXT,
)
from benchmarks.quality.reading import choosing_samples, reading_samples

from lragent.agents.tools import DocumentStore
from lragent.agents.trajectories import build_samples
from lragent.agents.trajectories.choices import ChoiceQuestion, play_choices, solved_pages
from lragent.evaluation.tasks import TASKS, Task, read_task
from lragent.evaluation.tasks.sources import choice_questions, solved_and_rest

HOTPOT = "hotpotqa_train.jsonl.gz"


def make(data: Path, out: Path, questions: int, choices: int, held_out: int, seed: int = 0) -> None:
    """Write all files to `out`.

    Args:
        data: the data folder.
        out: the folder to write.
        questions: of each task.
        choices: multiple-choice questions that the roles learn from.
        held_out: samples of each role and of reading that no training sees.
        seed: of every choice.
    """
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    tasks = {name: read_task(name, data, questions, seed) for name in TASKS}
    for name, task in tasks.items():
        task.save(out / TASK_FILE.format(name))
    solved, rest = solved_and_rest(data)
    store = DocumentStore(solved_pages(solved))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train = [*_lines(data / HOTPOT), *_lines(data / "2wiki_train.jsonl.gz")]
        samples = [*_played(train, folder, seed), *_chosen(rest[:choices], store, rng)]
        rng.shuffle(samples)
        _write(out / ROLES_TRAIN, samples)
        dev = [*_lines(data / "hotpotqa_dev.jsonl.gz")][:400]
        val = list(choice_questions(_lines(data / "scienceqa_text_val.jsonl.gz")))
        unseen = [
            *_played([record | {"split": "train"} for record in dev], folder, seed),
            *_chosen(val[:200], store, rng),
        ]
        rng.shuffle(unseen)
        _write(out / ROLES_HELD_OUT, _per_role(unseen, held_out))
    multi_hop = [*train, *_lines(data / "musique_train.jsonl.gz")]
    reading = list(reading_samples(multi_hop, 2, rng)) + list(choosing_samples([*solved, *rest]))
    rng.shuffle(reading)
    _write(out / READING, reading)
    unseen = list(reading_samples(dev, 1, rng)) + list(choosing_samples(val))
    rng.shuffle(unseen)
    _write(out / READING_HELD_OUT, unseen[: 2 * held_out])
    _write_text(out / TEXT, tasks["2wiki"])


def _played(
    records: Iterable[Mapping[str, Any]], scratch: Path, seed: int
) -> Iterator[Mapping[str, Any]]:
    """Role samples by the program of `lragent train-data`, which reads one train file."""
    with gzip.open(scratch / HOTPOT, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    plain = scratch / "samples.jsonl"
    print(build_samples(scratch, plain, seed=seed))
    with plain.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _chosen(
    questions: list[ChoiceQuestion], store: DocumentStore, rng: random.Random
) -> Iterator[Mapping[str, Any]]:
    for script in play_choices(questions, store, 0.4, rng):
        for sample in script.samples:
            yield {"role": sample.role.value, "input": sample.input, "output": sample.output}


def _per_role(samples: Iterable[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        kept.setdefault(sample["role"], []).append(sample)
    return [sample for found in kept.values() for sample in found[:count]]


def _lines(path: Path) -> Iterator[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _write(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    rows = list(samples)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(path, len(rows), f"{path.stat().st_size / 1e6:.1f} MB")


def _write_text(path: Path, task: Task, most: int = 200_000) -> None:
    text = "\n\n".join(page for q in task.questions for _, page in q.pages)
    path.write_bytes(gzip.compress(text[:most].encode(), mtime=0))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Pack questions and training samples.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=1000, help="most questions of each task")
    parser.add_argument("--choices", type=int, default=1500, help="ScienceQA questions to train on")
    parser.add_argument("--held-out", type=int, default=150, help="unseen samples of each role")
    arguments = parser.parse_args()
    make(
        arguments.data,
        arguments.out,
        arguments.questions,
        arguments.choices,
        arguments.held_out,
    )


if __name__ == "__main__":
    main()

"""Training samples and held-out ones, from HotpotQA questions of different files.

    python -m benchmarks.answers.samples --data FOLDER --out build/answers

FOLDER holds hotpotqa_train.jsonl.gz and hotpotqa_dev.jsonl.gz, which have no question in common.
The samples of both are made by the program of `lragent train-data`.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import tempfile
from pathlib import Path

from benchmarks.answers import HELD_OUT, TRAIN

from lragent.agents.trajectories import build_samples


def make(data: Path, out: Path, seed: int = 0) -> None:
    """Write both files to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _build(data, out / TRAIN, folder, seed)
        # The program takes questions of the train split only, so that nothing else gets trained on;
        # the held-out questions are handed to it under that name.
        with (
            gzip.open(data / "hotpotqa_dev.jsonl.gz", "rt", encoding="utf-8") as questions,
            gzip.open(folder / "hotpotqa_train.jsonl.gz", "wt", encoding="utf-8") as renamed,
        ):
            for line in questions:
                renamed.write(line.replace('"split":"dev"', '"split":"train"', 1))
        _build(folder, out / HELD_OUT, folder, seed)


def _build(data: Path, out: Path, scratch: Path, seed: int) -> None:
    plain = scratch / "samples.jsonl"
    report = build_samples(data, plain, seed=seed)
    with plain.open("rb") as samples, gzip.open(out, "wb") as packed:
        shutil.copyfileobj(samples, packed)
    print(out, report.samples)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make training and held-out samples.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    make(arguments.data, arguments.out)


if __name__ == "__main__":
    main()

"""Engines take turns, wait for each other at the start, and end with whoever started them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.serving.turns import Turns

PROGRAM = """
import os, sys, time
from pathlib import Path
from benchmarks.serving.turns import Turns
cores = os.sched_getaffinity(0)
folder, place, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
turns = Turns(folder, place, count)
time.sleep(0.1 * place)
turns.begin()
assert os.sched_getaffinity(0) == {max(cores)}
for number in range(4):
    with turns.turn():
        with (folder / "log").open("a") as log:
            print("in", place, number, file=log, flush=True)
            time.sleep(0.01)
            print("out", place, number, file=log, flush=True)
"""


def start(folder: Path, place: int, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(place), str(count)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def test_one_after_the_other(tmp_path: Path):
    running = [start(tmp_path, place, 3) for place in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    lines = (tmp_path / "log").read_text().split("\n")[:-1]
    assert lines == [
        f"{word} {place} {number}"
        for number in range(4)
        for place in range(3)
        for word in ("in", "out")
    ]


def test_nobody_begins_before_all_are_ready(tmp_path: Path):
    running = start(tmp_path, 0, 2)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1)
    assert not (tmp_path / "log").exists()
    running.kill()
    running.wait()


def test_one_engine_needs_no_folder():
    turns = Turns()
    turns.begin()
    with turns.turn():
        pass


def test_engines_with_fewer_policies_take_as_many_turns():
    assert Turns(most=3).padded(["stock", "stock-one"]) == ["stock", "stock-one", None]
    assert Turns().padded(["stock", "stock-one"]) == ["stock", "stock-one"]

"""What must not grow while requests come and go."""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Self

WARM = 0.4  # of the samples come before caches and pools are full
ROOM = {  # over the whole run: a share of the mean, and a number
    "objects": (0.0, 100),
    "files": (0.0, 0),
    "pages": (0.05, 0),
    "series": (0.0, 2),  # a reason that is met late
    "entries": (0.05, 0),
}


def slope(values: list[float]) -> float:
    """Of the straight line through them, by least squares, from one sample to the next."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((i - middle) ** 2 for i in range(len(values)))
    return sum((i - middle) * (value - mean) for i, value in enumerate(values)) / spread


class Gauges:
    """Samples by name: bytes of resident memory, new Python objects, open files, and given ones.

    A context manager: inside, the garbage collector leaves out what was there before, or each
    sample would take as long as all that is imported is large.

    Args:
        memory: bytes by which memory may grow.
    """

    def __init__(self, memory: int = 2 << 20) -> None:
        self.samples: dict[str, list[float]] = defaultdict(list)
        self._room = {**ROOM, "memory": (0.0, memory)}

    def __enter__(self) -> Self:
        gc.collect()
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        gc.unfreeze()

    def take(self, given: Mapping[str, float]) -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        taken = {
            "memory": pages * os.sysconf("SC_PAGE_SIZE"),
            "objects": len(gc.get_objects()),
            "files": len(list(Path("/proc/self/fd").iterdir())),
            **given,
        }
        for name, value in taken.items():
            self.samples[name].append(value)

    def check(self) -> None:
        """Each line is flat: over all samples it rises by no more than there is room for."""
        for name, values in self.samples.items():
            warm = values[int(len(values) * WARM) :]
            rise, mean = slope(warm) * len(warm), sum(warm) / len(warm)
            share, number = self._room[name]
            assert rise <= share * mean + number, f"{name} grow by {rise:.0f} of {mean:.0f}: {warm}"

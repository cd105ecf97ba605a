"""What the command lines of the vLLM benchmarks check alike, and what a result says of its run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import machine


@dataclass(frozen=True)
class Call:
    """One call of a benchmark.

    Attributes:
        hardware: see `machine.hardware`.
        commit: of the checkout.
    """

    hardware: dict[str, Any]
    commit: str

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is measured."""
        return self.hardware["driver"] is not None

    def identity(self, model: str) -> dict[str, Any]:
        """What a result says of its run; `result.IDENTITY` are those that calls agree in."""
        return {
            "hardware": self.hardware,
            "versions": machine.versions(),
            "source": machine.source(),
            "commit": self.commit,
            "model": model,
            "environment": machine.environment(),
        }


def checked(options: argparse.Namespace, root: Path) -> Call:
    """The call that options ``commit``, ``out`` and ``tiny`` describe; ends the program otherwise.

    Args:
        options: the command line's.
        root: the checkout.
    """
    commit = options.commit or machine.checked_out_commit(root)
    if commit is None:
        sys.exit("this is no git checkout; name the commit with --commit")
    call = Call(machine.hardware(), commit)
    if options.out is None and (options.tiny or not call.on_gpu):
        sys.exit("a tiny or CPU result is no result of the project; give --out for it")
    return call

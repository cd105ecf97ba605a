"""Role samples and text: the user's files, or what is bundled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lragent.agents.demo import demo_questions, demo_store, demo_text
from lragent.agents.prompts import Role
from lragent.agents.trajectories import play_trajectories
from lragent.agents.trajectories.records import Record
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.samples import samples_of_trace
from lragent.training.samples import Message, Sample, read_samples


@dataclass(frozen=True)
class Inputs:
    """What the roles have written, and text to cut into turns; either may be empty."""

    samples: list[Sample]
    text: str


def bundled_inputs(roles: Sequence[str]) -> Inputs:
    """The demo's documents as text, and samples played by program from its questions.

    Without the samples where `roles` are not those of the demo.
    """
    if set(roles) != {role.value for role in Role}:
        return Inputs([], demo_text())
    pages = tuple((document.title, document.text) for document in demo_store().documents)
    records = [
        Record(str(i), q.question, q.answer, q.type == "comparison", q.gold_titles, pages)
        for i, q in enumerate(demo_questions())
    ]
    played = play_trajectories(records, arithmetic=10, wrong_share=0.5, rng=random.Random(0))
    samples = [
        Sample(role=s.role.value, input=[Message(**m) for m in s.input], output=s.output)
        for _, script in played
        for s in script.samples
    ]
    return Inputs(samples, demo_text())


def read_inputs(
    samples: Sequence[Path], traces: Sequence[Path], texts: Sequence[Path], roles: Sequence[str]
) -> Inputs:
    """Sample files as `lragent train` takes them, traces of `lragent run`, and text files.

    Raises:
        TrainingError, TraceReadError: a file that is no sample file or trace.
        EvaluationError: a trace with a role that has no adapter, or text that is not UTF-8.
        OSError: a file that cannot be read.
    """
    by_role, _ = read_samples(samples, roles)
    found = [sample for of_role in by_role.values() for sample in of_role]
    for path in traces:
        of_trace = samples_of_trace(path)
        missing = {s.role for s in of_trace} - set(roles)
        if missing:
            raise EvaluationError(
                f"{path}: no adapter for {', '.join(sorted(missing))}; name one with --adapter"
            )
        found += of_trace
    return Inputs(found, "\n".join(map(_text, texts)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8 text: {error}") from error

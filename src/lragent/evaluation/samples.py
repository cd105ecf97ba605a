"""What is scored: a role's output after a context, from role samples, traces or plain text."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from lragent.agents.prompts import REFLECT, STOPS, Trajectory, Turn
from lragent.agents.trace import RunTrace, TraceCall
from lragent.evaluation.errors import EvaluationError
from lragent.training.encoding import encode
from lragent.training.samples import Message, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EvalSample:
    """Token ids of `context`, which other roles read, and of `output`, which `role` writes.

    `id` tells the samples of one evaluation apart.
    """

    id: str
    role: str
    context: tuple[int, ...]
    output: tuple[int, ...]


def encode_samples(
    samples: Iterable[Sample], tokenizer: PreTrainedTokenizerBase, name: str
) -> list[EvalSample]:
    """Role samples as token ids; `name` is put before their numbers.

    Raises:
        TrainingError: chat messages, and a tokenizer without a chat template.
    """
    found = []
    for number, sample in enumerate(samples, start=1):
        example = encode(sample, tokenizer)
        start = len(example.ids) - example.learnt
        found.append(
            EvalSample(
                f"{name}:{sample.role}:{number}",
                sample.role,
                tuple(example.ids[:start]),
                tuple(example.ids[start:]),
            )
        )
    return found


def samples_of_trace(path: Path) -> list[Sample]:
    """A sample for each call of a saved run: its prompt, and its text with the stop string.

    Raises:
        TraceReadError: the file is missing or no trace.
        EvaluationError: its transcript does not hold the calls' texts.
    """
    trace = RunTrace.load(path)
    samples, position = [], 0
    for call in trace.calls:
        if not call.text:
            continue
        marker = _marker(call)
        found = trace.transcript.find(marker + call.text, position)
        if found < 0:
            raise EvaluationError(
                f"{path}: the transcript does not hold the text of {call.role.value} in step "
                f"{call.step}; write the trace again with lragent run --trace"
            )
        start = found + len(marker)
        position = start + len(call.text)
        stop = trace.transcript[position : position + 1]
        trajectory = Trajectory(trace.question)
        trajectory.text = trace.transcript[:start]
        messages = [Message(**message) for message in trajectory.messages()]
        output = call.text + (stop if stop in STOPS[call.kind] else "")
        samples.append(Sample(role=call.role.value, input=messages, output=output))
    return samples


def _marker(call: TraceCall) -> str:
    """What stands in a transcript right before a call's text (see `agents.prompts`)."""
    return {
        Turn.THOUGHT: f"Thought {call.step}:",
        Turn.TOOL: f"\nAction {call.step}:",
        Turn.ARGUMENT: "[",
        Turn.VERDICT: f"\nAction {call.step}: {REFLECT}[",
    }[call.kind]


def windows(
    ids: Sequence[int], roles: Sequence[str], length: int, turn: int, count: int
) -> list[EvalSample]:
    """Text cut into turns: each role scores the `turn` tokens after the same contexts.

    Args:
        ids: the text.
        roles: every one of them scores every window.
        length: tokens of context.
        turn: tokens of output.
        count: windows, evenly spaced; fewer where more would hold the same output.

    Returns:
        `count * len(roles)` samples at most; none when the text is too short.
    """
    room = len(ids) - length - turn
    if room < 0:
        return []
    count = min(count, 1 + room // turn)
    starts = [round(i * room / max(1, count - 1)) for i in range(count)]
    return [
        EvalSample(
            f"text:{role}:{length}:{start}",
            role,
            tuple(ids[start : start + length]),
            tuple(ids[start + length : start + length + turn]),
        )
        for start in starts
        for role in roles
    ]


def choose(
    samples: Sequence[EvalSample], roles: Sequence[str], per_role: int, limit: int, seed: int
) -> list[EvalSample]:
    """At most `per_role` samples of each role, none longer than `limit` tokens; roles take turns.

    Raises:
        EvaluationError: a role has fewer than two, which no interval can be made from.
    """
    rng = random.Random(seed)
    chosen: list[list[EvalSample]] = []
    for role in roles:
        fitting = [s for s in samples if s.role == role and len(s.context + s.output) <= limit]
        if len(fitting) < 2:
            raise EvaluationError(
                f"{role} has {len(fitting)} samples of at most {limit} tokens, and needs two; add "
                "samples, traces, or a longer text"
            )
        rng.shuffle(fitting)  # a larger `per_role` begins with the same samples
        chosen.append(fitting[:per_role])
    return [sample for turn in zip_longest(*chosen) for sample in turn if sample is not None]

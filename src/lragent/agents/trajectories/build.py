"""Role samples for training from the HotpotQA train questions (CC BY-SA 4.0), by program."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lragent.agents.prompts import Role
from lragent.agents.trajectories.arithmetic import play_differences
from lragent.agents.trajectories.bridge import best_fact, play_bridge
from lragent.agents.trajectories.comparison import play_comparison
from lragent.agents.trajectories.judging import finish, wrong_answer
from lragent.agents.trajectories.phrases import PHRASES
from lragent.agents.trajectories.records import Record, read_records
from lragent.agents.trajectories.script import Sample, Script
from lragent.agents.trajectories.spans import short_title
from lragent.files import write_atomically

CHARS_PER_TOKEN = 3.7
"""Measured on these samples with the SmolLM2 tokenizer."""


@dataclass(frozen=True)
class BuildReport:
    """What was written: samples and estimated tokens for each role, trajectories for each kind."""

    samples: dict[str, int]
    tokens: dict[str, int]
    trajectories: dict[str, int]
    unused_records: int


def build_samples(
    data_folder: Path | str,
    out: Path | str,
    *,
    seed: int = 0,
    max_tokens_per_role: int = 3_000_000,
    arithmetic: int = 150,
    wrong_share: float = 0.5,
) -> BuildReport:
    """Write JSONL of ``{"role", "input", "output"}`` to `out`; the same seed writes the same bytes.

    `data_folder` holds ``hotpotqa_train.jsonl.gz``. `input` is a list of chat messages whose last
    one, the assistant's, is to be continued by `output`. `arithmetic` questions about year
    differences are made up from the same pages; in `wrong_share` of the trajectories reflect first
    sees a wrong answer. Samples beyond about `max_tokens_per_role` tokens (input and output,
    estimated) are left out at random. Raises RecordError for unusable data and OSError when `out`
    cannot be written (nothing is left there then).
    """
    records = list(read_records(Path(data_folder)))
    rng = random.Random(seed)
    kinds: Counter[str] = Counter()
    samples: list[Sample] = []
    for kind, script in play_trajectories(records, arithmetic, wrong_share, rng):
        kinds[kind] += 1
        samples += script.samples
    kept = _cut(samples, max_tokens_per_role, rng)
    lines = (
        json.dumps({"role": s.role.value, "input": s.input, "output": s.output}, ensure_ascii=False)
        for s in kept
    )
    write_atomically(Path(out), "".join(f"{line}\n" for line in lines))
    return BuildReport(
        samples={role.value: sum(s.role is role for s in kept) for role in Role},
        tokens={role.value: sum(_tokens(s) for s in kept if s.role is role) for role in Role},
        trajectories=dict(kinds),
        unused_records=len(records) - kinds["bridge"] - kinds["comparison"],
    )


def play_trajectories(
    records: Sequence[Record], arithmetic: int, wrong_share: float, rng: random.Random
) -> Iterator[tuple[str, Script]]:
    """Complete scripts with their kind; arguments as those of `build_samples`."""
    for record in records:
        names = (short_title(record.gold[0]), short_title(record.gold[1]))
        if record.comparison:
            played = play_comparison(record, rng)
            if played is None:
                continue
            script, facts = played
            fact, frames, alternatives = ". ".join(facts), PHRASES.compared, names
        else:
            bridge = play_bridge(record, rng)
            found = best_fact(bridge, record.question, record.answer) if bridge else None
            if bridge is None or found is None:
                continue
            script, fact, frames, alternatives = bridge, found, PHRASES.answer, ()
        wrong = None
        if rng.random() < wrong_share:
            wrong = wrong_answer(script, record.answer, alternatives, rng)
        finish(script, fact, record.answer, frames, rng, wrong)
        yield ("comparison" if record.comparison else "bridge"), script
    for made in play_differences(records, arithmetic, rng):
        wrong = None
        if rng.random() < wrong_share:
            wrong = wrong_answer(made.script, made.answer, (), rng)
        finish(made.script, made.fact, made.answer, PHRASES.result, rng, wrong)
        yield "arithmetic", made.script


def _cut(samples: Sequence[Sample], budget: int, rng: random.Random) -> list[Sample]:
    """A seeded shuffle, cut for each role where its token budget ends."""
    kept: list[Sample] = []
    used: Counter[Role] = Counter()
    for sample in rng.sample(list(samples), len(samples)):
        size = _tokens(sample)
        if used[sample.role] + size <= budget:
            used[sample.role] += size
            kept.append(sample)
    return kept


def _tokens(sample: Sample) -> int:
    text = sum(len(message["content"]) for message in sample.input) + len(sample.output)
    return round(text / CHARS_PER_TOKEN)

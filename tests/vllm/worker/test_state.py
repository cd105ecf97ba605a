"""A worker's layout of a step that repeats the one before, against one that is laid out anew."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lragent.vllm.messages import NEVER, OWN_ROW, Admission, SlotWrite, StepMessage
from lragent.vllm.worker.state import WorkerSizes, WorkerState

LORAS = 4


class Worker:
    """A state, and what stands for vLLM's wrapper of LoRA kernels."""

    def __init__(self, splits: bool):
        options: Any = SimpleNamespace(
            splits=splits, folds=True, columns=2, extra_rows=2, slot_width=lambda rank: rank
        )
        self.state = WorkerState(options, WorkerSizes(256, 16, LORAS, 4), torch.float32, "cpu")
        self.punica = SimpleNamespace(_sampler_indices=torch.full((256,), -1), lragent_mapping=None)
        self.state.punica = self.punica

    def step(
        self,
        message: StepMessage | None,
        ended: list[str],
        asked: list[tuple[str, int, int]],
        places: list[int],
        mapping: object,
    ) -> tuple[bool, list[Any]]:
        """Whether the step's layout was there already, and the layout."""
        state = self.state
        state.begin_step(message, ended)
        counts = [count for _, _, count in asked]
        state.fill([r for r, _, _ in asked], [first for _, first, _ in asked], counts)
        adapters = state.base_in_context(tuple(range(sum(counts))))
        self.punica._sampler_indices[: len(places)] = torch.tensor(places)
        self.punica.lragent_mapping = mapping
        kept = state.resolve()
        total = sum(counts)
        split = state.take_split(total)
        parts = [state.rows, state.slots, state.write_base, state.fold]
        layout = [part[:total].tolist() for part in parts]
        rows = split and [column.tolist() for column in (split.request, split.tokens, split.acts)]
        return kept, [*layout, state.slot_of_row.tolist(), state.host_slots, adapters, rows]


def drawn(rng: random.Random) -> Admission:
    """An admission whose boundaries lie where the test's requests pass."""
    own = SlotWrite(0, OWN_ROW, rng.randint(0, 12), rng.choice((NEVER, rng.randint(0, 20))))
    other = SlotWrite(1, 1, rng.randint(0, 12), rng.randint(0, 20))
    fills = rng.choice(((), (own,), (own, other)))
    acts_from = rng.choice((0, NEVER, rng.randint(1, 20)))
    return Admission(
        rng.randint(0, 12), rng.choice((-1, 0, 1)), fills, rng.random() < 0.5, acts_from
    )


@pytest.mark.parametrize("splits", [False, True])
def test_a_layout_that_stays_is_the_one_that_would_be_made(splits: bool):
    rng = random.Random(3)
    worker, admissions, running, count = Worker(splits), {}, {}, 0
    places, mapping = [], object()
    stayed = moved = disturbed = 0
    for number in range(3000):
        message, ended = None, []
        if not running or rng.random() < 0.1:
            ended = [r for r in running if rng.random() < 0.5]
            fresh = {f"{count + i}": drawn(rng) for i in range(rng.randint(0, 8 - len(running)))}
            count += len(fresh)
            running = {r: n for r, n in running.items() if r not in ended}
            running |= dict.fromkeys(fresh, 0)
            admissions |= fresh
            message = StepMessage(fresh)
        elif rng.random() < 0.05:  # preempted and resumed, with other boundaries
            again = rng.choice(list(running))
            admissions[again] = drawn(rng)
            message = StepMessage({again: admissions[again]})
        if not running:
            continue
        asked = [(r, n, rng.randint(1, 9) if n == 0 else 1) for r, n in running.items()]
        if rng.random() < 0.05:  # one waits, or the order is another
            asked = rng.sample(asked, rng.randint(1, len(asked)))
        if message or rng.random() < 0.05 or len(places) != len(asked):
            places = [rng.randrange(-1, LORAS) for _ in asked]
            mapping = object()
            moved += message is None
        kept, found = worker.step(message, ended, asked, places, mapping)
        stayed += kept
        assert not (kept and disturbed)
        anew = Worker(splits)
        everything = StepMessage({r: admissions[r] for r, _, _ in asked})
        _, expected = anew.step(everything, [], asked, places, mapping)
        assert found == expected, number
        running |= {r: n + m for r, n, m in asked}
        disturbed = rng.random() < 0.03
        if disturbed:  # a run without requests, in the same buffers
            assert not worker.state.resolve()
    assert stayed > 300
    assert moved > 50


def test_what_vllm_does_not_tell_apart_is_laid_out_each_time():
    """Where no hook says whether adapters have moved, nothing stays."""
    worker = Worker(False)
    message = StepMessage({"a": Admission(0, 0, (SlotWrite(0, OWN_ROW, 0),), False)})
    for position in range(5):
        kept, layout = worker.step(message, [], [("a", position, 1)], [position % LORAS], None)
        assert not kept
        assert layout[0] == [[position % LORAS, -1]]
        message = None

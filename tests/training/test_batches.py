"""The planned order of batches."""

from __future__ import annotations

from collections import Counter

from lragent.training.batches import PlannedBatches
from lragent.training.encoding import Example


def examples(plan: int, act: int) -> list[Example]:
    roles = ["plan"] * plan + ["act"] * act
    return [Example(role, [0] * (2 + i * 7 % 50), 1) for i, role in enumerate(roles)]


def test_each_epoch_sees_every_example_once() -> None:
    data = examples(21, 10)
    batches = list(PlannedBatches(data, 4, epochs=3, seed=0))

    assert len(batches) == 3 * (6 + 3)
    assert Counter(index for batch in batches for index in batch) == dict.fromkeys(range(31), 3)


def test_a_batch_holds_one_role_and_roles_take_turns() -> None:
    data = examples(40, 40)
    batches = list(PlannedBatches(data, 4, epochs=1, seed=0))

    roles = [{data[index].role for index in batch} for batch in batches]
    assert all(len(own) == 1 for own in roles)
    assert roles == [{"plan"}, {"act"}] * 10


def test_batches_hold_similar_lengths() -> None:
    data = examples(256, 0)
    padding = [
        max(lengths) * len(lengths) - sum(lengths)
        for batch in PlannedBatches(data, 8, epochs=1, seed=0)
        for lengths in [[len(data[index].ids) for index in batch]]
    ]

    assert sum(padding) < 0.1 * sum(len(example.ids) for example in data)


def test_limit_replaces_epochs_in_both_directions() -> None:
    data = examples(8, 0)

    assert len(PlannedBatches(data, 4, epochs=5, seed=0, limit=3)) == 3
    assert len(PlannedBatches(data, 4, epochs=1, seed=0, limit=9)) == 9


def test_a_seed_fixes_the_order() -> None:
    data = examples(50, 0)
    order = [list(PlannedBatches(data, 4, epochs=1, seed=seed)) for seed in (0, 0, 1)]

    assert order[0] == order[1]
    assert order[0] != order[2]

from __future__ import annotations

from lragent.evaluation.cases import Reading, hand_over_cases, length_cases, reader_cases
from lragent.evaluation.samples import EvalSample

MEMBERS = ("plan", "act", "reflect")


def sample(role: str, context: int) -> EvalSample:
    return EvalSample(f"{role}:{context}", role, tuple(range(context)), (1, 2))


def test_every_other_member_reads_once() -> None:
    (case,) = reader_cases([sample("act", 40)], MEMBERS)
    assert [reading.readers for reading in case.readings] == [("plan",), ("reflect",)]


def test_fewer_readers_take_turns() -> None:
    samples = [sample(role, length) for length in (40, 41, 42) for role in MEMBERS]
    cases = reader_cases(samples, MEMBERS, readers=1)
    assert [case.sample for case in cases] == samples
    of_act = [case.readings for case in cases if case.sample.role == "act"]
    assert of_act == [(Reading((m,)),) for m in ("plan", "reflect", "plan")]


def test_readers_of_a_length_come_before_the_role() -> None:
    cases = length_cases([sample(role, 40) for role in MEMBERS], MEMBERS)
    assert [case.readings[0].readers for case in cases] == [("reflect",), ("plan",), ("act",)]


def test_members_take_turns_before_the_role() -> None:
    (case,) = hand_over_cases([sample("act", 64)], MEMBERS, (1, 2, 4), page_size=16, per_role=1)
    assert [reading.readers for reading in case.readings] == [
        ("plan",),
        ("reflect", "plan"),
        ("plan", "act", "reflect", "plan"),
    ]


def test_hand_overs_take_the_longest_samples_that_give_each_reader_a_page() -> None:
    samples = [sample("plan", n) for n in (63, 64, 80, 72)] + [sample("act", 63)]
    cases = hand_over_cases(samples, MEMBERS, (1, 4), page_size=16, per_role=2)
    assert [case.sample.id for case in cases] == ["plan:80", "plan:72"]


def test_parts_are_equal_and_the_last_ends_with_the_context() -> None:
    assert Reading(("a", "b", "a")).ends(100) == [33, 66, 100]
    assert Reading(("a",)).ends(7) == [7]

"""Scores of several arms on the same questions, and their differences, paired by question."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from lragent.agents import Status
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.statistics import Bootstrap, Estimate, Table
from lragent.evaluation.tasks.answers import Answer


class Difference(BaseModel):
    """An arm minus the reference, on the same questions.

    Attributes:
        reference: the other arm.
        exact, f1, unfinished: percentage points.
        won, lost: questions that only this arm, or only the reference, has right; of questions
            that were answered several times, those that one of them has right more often.
        p: of McNemar's exact test, two-sided: how likely a split of these questions as uneven as
            this is when neither arm is better.
    """

    model_config = ConfigDict(frozen=True)

    reference: str
    exact: Estimate
    f1: Estimate
    unfinished: Estimate
    won: int
    lost: int
    p: float


class ArmScores(BaseModel):
    """What an arm scored.

    Attributes:
        exact, f1: percent; for multiple choice both are the accuracy.
        finished: percentage of runs that ended with an answer.
        loops: percentage of runs that were ended because they went in circles.
        tool_errors, steps, generated_tokens: means over the runs.
        reused: percentage of prompt tokens that came from the cache.
        differences: to each of the references that were asked for.
    """

    model_config = ConfigDict(frozen=True)

    arm: str
    exact: Estimate
    f1: Estimate
    finished: Estimate
    loops: Estimate
    tool_errors: float
    steps: float
    generated_tokens: float
    reused: float
    differences: tuple[Difference, ...] = ()


class TaskResult(BaseModel):
    """Arms on the questions that all of them have answered, equally often."""

    model_config = ConfigDict(frozen=True)

    task: str
    questions: int
    arms: tuple[ArmScores, ...]


class _Columns(NamedTuple):
    one: Table
    exact: Table
    f1: Table
    unfinished: Table
    loop: Table


WIDTH = len(_Columns._fields)


def compare(
    task: str,
    arms: Mapping[str, Sequence[Answer]],
    references: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> TaskResult:
    """Scores of each arm with 95 % bootstrap intervals over questions.

    An arm may have several answers to a question, by roles of several trainings. A resample has
    all answers to a question or none, so the intervals are those of questions, not of answers.

    Args:
        task: its name.
        arms: answers by the arm's name.
        references: for an arm's name, the arms that it is compared with.
        seed: of the bootstrap.

    Raises:
        EvaluationError: fewer than two questions that all arms have answered equally often.
    """
    by_key: dict[str, dict[str, list[Answer]]] = {name: {} for name in arms}
    for name, answers in arms.items():
        for answer in answers:
            by_key[name].setdefault(answer.key, []).append(answer)
    first = next(iter(by_key.values()), {})
    common = [
        key
        for key, answers in first.items()
        if all(len(found.get(key, ())) == len(answers) for found in by_key.values())
    ]
    if len(common) < 2:
        raise EvaluationError(f"{task}: fewer than two questions were answered in all arms")
    rows = {name: [found[key] for key in common] for name, found in by_key.items()}
    tables = [np.array([_row(answers) for answers in found]) for found in rows.values()]
    bootstrap = Bootstrap(np.hstack(tables), seed)
    place = {name: i * WIDTH for i, name in enumerate(rows)}
    made = [_scores(name, rows, place, bootstrap, references.get(name, ())) for name in rows]
    return TaskResult(task=task, questions=len(common), arms=tuple(made))


def mcnemar(won: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test, by the binomial distribution."""
    count = won + lost
    tail = sum(math.comb(count, k) for k in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**count)


def _scores(
    name: str,
    rows: Mapping[str, Sequence[Sequence[Answer]]],
    place: Mapping[str, int],
    bootstrap: Bootstrap,
    references: Sequence[str],
) -> ArmScores:
    own = [answer for answers in rows[name] for answer in answers]

    def columns(sums: Table, arm: str) -> _Columns:
        return _Columns(*sums[place[arm] : place[arm] + WIDTH])

    def share(column: str) -> Estimate:
        def statistic(sums: Table) -> Table:
            found = columns(sums, name)
            return 100 * getattr(found, column) / found.one

        return bootstrap.estimate(statistic)

    def difference(column: str, other: str) -> Estimate:
        def statistic(sums: Table) -> Table:
            mine, theirs = columns(sums, name), columns(sums, other)
            return 100 * (getattr(mine, column) - getattr(theirs, column)) / mine.one

        return bootstrap.estimate(statistic)

    def against(other: str) -> Difference:
        right, theirs = ([sum(a.exact for a in found) for found in rows[arm]]
                         for arm in (name, other))  # fmt: skip
        won = sum(a > b for a, b in zip(right, theirs, strict=True))
        lost = sum(a < b for a, b in zip(right, theirs, strict=True))
        return Difference(
            reference=other,
            exact=difference("exact", other),
            f1=difference("f1", other),
            unfinished=difference("unfinished", other),
            won=won,
            lost=lost,
            p=mcnemar(won, lost),
        )

    unfinished = share("unfinished")
    return ArmScores(
        arm=name,
        exact=share("exact"),
        f1=share("f1"),
        finished=Estimate(100 - unfinished.value, 100 - unfinished.high, 100 - unfinished.low),
        loops=share("loop"),
        tool_errors=fmean(a.tool_errors for a in own),
        steps=fmean(a.steps for a in own),
        generated_tokens=fmean(a.generated_tokens for a in own),
        reused=100 * sum(a.reused_tokens for a in own) / max(1, sum(a.prompt_tokens for a in own)),
        differences=tuple(against(other) for other in references if other in rows),
    )


def _row(answers: Sequence[Answer]) -> Table:
    """The sums over the answers to one question."""
    return np.sum(
        [
            (1.0, a.exact, a.f1, a.status is not Status.ANSWERED, a.status is Status.LOOP)
            for a in answers
        ],
        axis=0,
    )

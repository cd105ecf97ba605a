"""The parts of the benchmark, each on one engine: they yield rows, each as soon as it is whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.serving.drive import Ask, Engine, Run, Session, drive
from benchmarks.serving.policies import STOCK
from benchmarks.serving.rows import handover_row, open_row, over_same_fields, quantile, row
from benchmarks.serving.trajectories import arrivals, read
from benchmarks.serving.turns import Turns
from benchmarks.serving.workload import (
    ACT,
    PLAN,
    REFLECT,
    draw,
    single,
    trace,
    trace_length,
    workflow,
)

Row = dict[str, Any]
ALONE = Turns()
COLD, BARE = "cold", "cold, no adapter"
AGAIN, OTHER = ("same", PLAN), "other"
# What is short is asked for several times, as it differs most; hand-overs between two of them.
HANDED_OVER = (
    (COLD, PLAN), *[AGAIN] * 3, (OTHER, ACT), *[AGAIN] * 2, (OTHER, REFLECT), *[AGAIN] * 3,
    (BARE, None),
)  # fmt: skip
NEWEST = 108
"""Tokens from the last tool's output on in a hand-over: what was measured of HotpotQA's agents."""
# The base pages of all tight sessions fit with a margin; two copies of them do not.
TIGHT_SHARE = 1.3


class Measured(Engine, Protocol):
    """An engine whose cache can be emptied and counted."""

    def use(self, policy: str) -> None:
        """Serve what follows as a name from `policies` says."""
        ...

    def forget(self) -> None:
        """Empty the prefix cache."""
        ...

    def kv_bytes(self) -> int:
        """Bytes of pages with content."""
        ...


@dataclass(frozen=True)
class Sizes:
    """What is run.

    Attributes:
        vocab: size of the vocabulary.
        repeats: measured repeats of every case but those below; of short hand-overs more.
        workflow_repeats: measured repeats of the workflows, which take longest.
        trace_repeats: measured repeats of the traces of one stream.
        workflow_seconds: no further repeat of a workflow begins after so long.
        contexts: prompt lengths of the hand-over.
        workflows: sessions and tokens of their prompts.
        workflow_new: tokens generated, and new ones, in a step of the workflow.
        chunks: C of the traces.
        tight: sessions and C of the traces under a tight KV budget.
        tight_share: that budget, over the base pages of all these sessions.
        rates: trajectories a second of the open loop, rising.
        open_seconds: for how long trajectories arrive.
        open_limit: seconds after which a rate is given up.
        longest: most tokens of a trajectory.
        data: file of trajectories.
    """

    vocab: int
    repeats: int
    workflow_repeats: int
    trace_repeats: int
    workflow_seconds: float
    contexts: tuple[int, ...]
    workflows: tuple[tuple[int, int], ...]
    workflow_new: tuple[int, int]
    chunks: tuple[int, ...]
    tight: tuple[int, int]
    tight_share: float
    rates: tuple[float, ...]
    open_seconds: float
    open_limit: float
    longest: int
    data: str | None = None

    def repeats_at(self, context: int) -> int:
        """Repeats of a hand-over: short ones are over soon, and differ most."""
        return self.repeats * max(2, min(8, 32768 // context))


def ttft(engine: Engine, ask: Ask) -> float:
    """Seconds until the first token of a request that is alone."""
    timing = drive(engine, [(0.0, single(ask))]).timings[0]
    assert timing.first is not None
    return timing.first - timing.started


def handover(
    engine: Measured, policies: Sequence[str], sizes: Sizes, turns: Turns = ALONE
) -> Iterator[Row]:
    """TTFT of a new context, of the same adapter again, and of the other two adapters after it.

    Stock has a new context without an adapter measured too.

    Args:
        engine: where.
        policies: what is measured on it.
        sizes: what is run.
        turns: with the other engines, one a request: a core of a shared host has two speeds, which
            differ by almost half, and keeps one for seconds. So engines are compared at the same.
    """
    for length in sizes.contexts:
        times: dict[tuple[str, str], list[float]] = {}
        over_same: dict[str, list[float]] = {}
        for repeat in range(sizes.repeats_at(length) + 1):
            prompt = draw(sizes.vocab, length, "handover", length, repeat)
            for policy in turns.padded(policies):
                asked: list[tuple[str, float]] = []
                for kind, agent in HANDED_OVER:
                    with turns.turn():
                        if policy is None or (kind == BARE and policy != STOCK):
                            continue
                        if kind == COLD:
                            engine.use(policy)
                            engine.forget()
                        seconds = ttft(engine, Ask(agent, prompt, 1, min(NEWEST, length - 1)))
                    asked.append((kind, seconds))
                if policy is None or not repeat:  # the first warms up
                    continue
                for kind, seconds in asked:
                    times.setdefault((policy, kind), []).append(seconds)
                over_same.setdefault(policy, []).extend(over_neighbours(asked))
        for (policy, kind), values in times.items():
            more = {} if kind != OTHER else over_same_fields(over_same[policy])
            yield handover_row(kind, length, policy, values, turns.count > 1, **more)


def over_neighbours(asked: Sequence[tuple[str, float]]) -> list[float]:
    """Each hand-over's time over the mean of those of the same adapter right before and after it,
    which find the host at the same speed."""
    found = []
    for before, (kind, seconds), after in zip(asked, asked[1:], asked[2:], strict=False):
        if kind == OTHER:
            found.append(2 * seconds / (before[1] + after[1]))
    return found


def workflows(
    engine: Measured, policies: Sequence[str], sizes: Sizes, turns: Turns = ALONE
) -> Iterator[Row]:
    """Generated tokens a second of sessions that pass plan, act and reflect three times."""
    generate, new = sizes.workflow_new

    def run(policy: str, sessions: int, length: int, repeat: int, rounds: int, tokens: int) -> Run:
        def fresh(number: int) -> Any:
            return lambda step: draw(sizes.vocab, new, "new", repeat, number, step)

        engine.use(policy)
        engine.forget()
        return drive(
            engine,
            [
                (
                    0.0,
                    workflow(
                        draw(sizes.vocab, length, "workflow", repeat, number),
                        fresh(number),
                        rounds,
                        tokens,
                    ),
                )
                for number in range(sessions)
            ],
        )

    for sessions, length in sizes.workflows:
        found = {policy: Tally() for policy in policies}
        with turns.turn():
            for policy in policies:
                run(policy, sessions, length, -1, 1, 4)  # warms up
        for repeat in range(sizes.workflow_repeats):
            with turns.turn():
                for policy, tally in found.items():
                    if tally.seconds > sizes.workflow_seconds:
                        continue
                    done = run(policy, sessions, length, repeat, 3, generate)
                    generated = sum(t.tokens for t in done.timings)
                    tally.add(generated, done, first_tokens(done), engine.kv_bytes())
        for policy, tally in found.items():
            tpot = round(1000 * quantile(tally.tpot, 0.5), 3)
            yield tally.row("workflow", f"{sessions} x {length}", policy, tpot_ms=tpot)


@dataclass
class Tally:
    """What the repeats of one case under one policy gave."""

    speeds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, tokens: int, run: Run, first: Sequence[float], held: int) -> None:
        """Add a repeat: tokens that count, its times, TTFT in seconds, and bytes of the cache."""
        self.speeds.append(tokens / run.seconds)
        self.first += first
        self.held.append(held)
        self.tpot += times_per_token(run)
        self.seconds += run.seconds

    def row(self, part: str, case: str, policy: str, **more: Any) -> Row:
        """The row of the result."""
        return row(
            part, case, policy, ttft_s=self.first, tokens_per_s=self.speeds, kv_bytes=self.held,
            **more,
        )  # fmt: skip


def first_tokens(run: Run) -> list[float]:
    """TTFT of the requests, in seconds; what waited in vain counts with the time it waited."""
    return [(t.first if t.first is not None else run.seconds) - t.started for t in run.timings]


def times_per_token(run: Run) -> list[float]:
    """Seconds a token after the first, of the requests that ended with several."""
    return [
        (t.done - t.first) / (t.tokens - 1)
        for t in run.timings
        if t.first is not None and t.done is not None and t.tokens > 1
    ]


def traces(
    engine: Measured, policies: Sequence[str], sizes: Sizes, turns: Turns = ALONE
) -> Iterator[Row]:
    """One stream of the 17-step trace: all tokens a second, and the sum of the 17 TTFT."""
    longest = draw(sizes.vocab, trace_length(max(sizes.chunks)), "warm")
    with turns.turn():
        for policy in policies:
            engine.use(policy)
            ttft(engine, Ask(PLAN, longest, 1))
    for chunk in sizes.chunks:
        length = trace_length(chunk)
        found = {policy: Tally() for policy in policies}
        for repeat in range(sizes.trace_repeats + 1):
            with turns.turn():
                for policy, tally in found.items():
                    engine.use(policy)
                    engine.forget()
                    done = drive(engine, [(0.0, trace(chunk, sizes.vocab, "trace", chunk, repeat))])
                    if repeat:  # the first warms up
                        tally.add(length, done, [sum(first_tokens(done))], engine.kv_bytes())
        for policy, tally in found.items():
            yield tally.row("trace", str(length), policy, tokens=length)


def tight_traces(
    engine: Measured, policies: Sequence[str], sizes: Sizes, turns: Turns = ALONE
) -> Iterator[Row]:
    """Many streams of the trace at once, under the KV budget that the engine was started with.

    The case names the budget's share where it is not `TIGHT_SHARE`.
    """
    sessions, chunk = sizes.tight
    length = trace_length(chunk)
    case = f"{sessions} x {length}"
    if sizes.tight_share != TIGHT_SHARE:
        case += f" in {sizes.tight_share:g}"
    with turns.turn():
        for policy in policies:
            engine.use(policy)
            # As many at once: vLLM compiles kernels for the adapters and tokens of a batch.
            drive(engine, tight_streams(sessions, min(sizes.chunks), sizes, "warm"))
    found = {policy: Tally() for policy in policies}
    for repeat in range(sizes.repeats):
        streams = [tight_streams(sessions, chunk, sizes, "tight", repeat) for _ in policies]
        with turns.turn():
            for (policy, tally), stream in zip(found.items(), streams, strict=True):
                engine.use(policy)
                engine.forget()
                done = drive(engine, stream)
                tally.add(sessions * length, done, first_tokens(done), engine.kv_bytes())
    for policy, tally in found.items():
        yield tally.row("tight", case, policy)


def tight_streams(
    sessions: int, chunk: int, sizes: Sizes, *names: object
) -> list[tuple[float, Session]]:
    """Traces that begin at once, each with its own tokens."""
    return [(0.0, trace(chunk, sizes.vocab, *names, n)) for n in range(sessions)]


def open_loop(
    engine: Measured, policies: Sequence[str], sizes: Sizes, turns: Turns = ALONE
) -> Iterator[Row]:
    """Trajectories that arrive at random, at rising rates, until a rate is too much.

    Raises:
        ValueError: no file of trajectories was given, or it cannot be used.
    """
    if sizes.data is None:
        raise ValueError("the open loop needs --data, a file of trajectories")
    trajectories = read(Path(sizes.data), sizes.longest)
    with turns.turn():
        for policy in policies:
            engine.use(policy)
            drive(engine, arrivals(trajectories, max(sizes.rates), 1.0, sizes.vocab, seed=-1), 10.0)
    going = list(policies)
    for rate in sizes.rates:
        found: list[Row] = []
        with turns.turn():
            for policy in going:
                engine.use(policy)
                engine.forget()
                sessions = arrivals(trajectories, rate, sizes.open_seconds, sizes.vocab)
                done = drive(engine, sessions, sizes.open_limit)
                found.append(
                    open_row(
                        f"{rate:g}/s", policy, first_tokens(done),
                        trajectory_times(done, sessions),
                        tokens_per_s=sum(t.tokens for t in done.timings) / done.seconds,
                        kv_bytes=engine.kv_bytes(), rate=rate, given_up=done.given_up,
                    )
                )  # fmt: skip
        yield from found
        over = {row["policy"] for row in found if row["given_up"] or row["ttft_p90_ms"] >= 1000}
        going = [policy for policy in going if policy not in over]


def trajectory_times(run: Run, sessions: Sequence[tuple[float, Any]]) -> list[float]:
    """Seconds from a trajectory's arrival to its last token; given-up ones until then."""
    ends: dict[int, float] = {}
    for timing in run.timings:
        done = run.seconds if timing.done is None else timing.done
        ends[timing.session] = max(done, ends.get(timing.session, 0.0))
    return [end - sessions[index][0] for index, end in sorted(ends.items())]

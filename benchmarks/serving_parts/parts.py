"""The parts of the benchmark, each on one engine: they return rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .drive import Ask, Engine, Run, drive
from .rows import open_row, row
from .trajectories import arrivals, read
from .workload import ACT, PLAN, draw, single, trace, trace_length, workflow

Row = dict[str, Any]


class Measured(Engine, Protocol):
    """An engine whose cache can be emptied and counted."""

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
        repeats: measured repeats of every case but the workflows.
        workflow_repeats: measured repeats of the workflows, which take longest.
        workflow_seconds: no further repeat of a workflow begins after so long.
        contexts: prompt lengths of the hand-over.
        workflows: sessions and tokens of their prompts.
        workflow_new: tokens generated, and new ones, in a step of the workflow.
        chunks: C of the traces.
        tight: sessions and C of the traces under a tight KV budget.
        rates: trajectories a second of the open loop, rising.
        open_seconds: for how long trajectories arrive.
        open_limit: seconds after which a rate is given up.
        longest: most tokens of a trajectory.
        data: file of trajectories.
    """

    vocab: int
    repeats: int
    workflow_repeats: int
    workflow_seconds: float
    contexts: tuple[int, ...]
    workflows: tuple[tuple[int, int], ...]
    workflow_new: tuple[int, int]
    chunks: tuple[int, ...]
    tight: tuple[int, int]
    rates: tuple[float, ...]
    open_seconds: float
    open_limit: float
    longest: int
    data: str | None = None


def ttft(engine: Engine, ask: Ask) -> float:
    """Seconds until the first token of a request that is alone."""
    timing = drive(engine, [(0.0, single(ask))]).timings[0]
    assert timing.first is not None
    return timing.first - timing.started


def handover(engine: Measured, policy: str, sizes: Sizes, bare_model: bool) -> list[Row]:
    """TTFT of a new context, of the same adapter again, and of another adapter after it.

    Args:
        engine: where.
        policy: its name.
        sizes: what is run.
        bare_model: measure a new context without an adapter too.
    """
    rows = []
    for length in sizes.contexts:
        engine.forget()
        times: dict[str, list[float]] = {"cold": [], "same": [], "other": []}
        if bare_model:
            times["cold, no adapter"] = []
        for repeat in range(sizes.repeats + 1):
            prompt = draw(sizes.vocab, length, "handover", length, repeat)
            found = {
                "cold": ttft(engine, Ask(PLAN, prompt, 1)),
                "same": ttft(engine, Ask(PLAN, prompt, 1)),
                "other": ttft(engine, Ask(ACT, prompt, 1)),
            }
            if bare_model:
                found["cold, no adapter"] = ttft(engine, Ask(None, prompt, 1))
            for name, seconds in found.items() if repeat else ():  # the first one warms up
                times[name].append(seconds)
        rows += [
            row("handover", f"{name}, {length}", policy, ttft_s=values, context=length, kind=name)
            for name, values in times.items()
        ]
    return rows


def workflows(engine: Measured, policy: str, sizes: Sizes) -> list[Row]:
    """Generated tokens a second of sessions that pass plan, act and reflect three times."""
    rows = []
    generate, new = sizes.workflow_new

    def run(sessions: int, length: int, repeat: int, rounds: int, tokens: int) -> Run:
        def fresh(number: int) -> Any:
            return lambda step: draw(sizes.vocab, new, "new", repeat, number, step)

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
        run(sessions, length, -1, 1, 4)  # warms up
        speeds, first, held, spent = [], [], [], 0.0
        for repeat in range(sizes.workflow_repeats):
            found = run(sessions, length, repeat, 3, generate)
            speeds.append(sum(t.tokens for t in found.timings) / found.seconds)
            first += first_tokens(found)
            held.append(engine.kv_bytes())
            spent += found.seconds
            if spent > sizes.workflow_seconds:
                break
        case = f"{sessions} x {length}"
        rows.append(row("workflow", case, policy, ttft_s=first, tokens_per_s=speeds, kv_bytes=held))
    return rows


def first_tokens(run: Run) -> list[float]:
    """TTFT of the requests, in seconds; what waited in vain counts with the time it waited."""
    return [(t.first if t.first is not None else run.seconds) - t.started for t in run.timings]


def traces(engine: Measured, policy: str, sizes: Sizes) -> list[Row]:
    """One stream of the 17-step trace: all tokens a second, and the sum of the 17 TTFT."""
    rows = []
    longest = draw(sizes.vocab, trace_length(max(sizes.chunks)), "warm")
    ttft(engine, Ask(PLAN, longest, 1))
    drive(engine, [(0.0, trace(min(sizes.chunks), sizes.vocab, "warm"))])
    for chunk in sizes.chunks:
        speeds, sums, held = [], [], []
        for repeat in range(sizes.repeats):
            engine.forget()
            found = drive(engine, [(0.0, trace(chunk, sizes.vocab, "trace", chunk, repeat))])
            speeds.append(trace_length(chunk) / found.seconds)
            sums.append(sum(first_tokens(found)))
            held.append(engine.kv_bytes())
        rows.append(
            row("trace", str(trace_length(chunk)), policy, ttft_s=sums, tokens_per_s=speeds,
                kv_bytes=held, tokens=trace_length(chunk))
        )  # fmt: skip
    return rows


def tight_traces(engine: Measured, policy: str, sizes: Sizes) -> list[Row]:
    """Many streams of the trace at once, under the KV budget that the engine was started with."""
    sessions, chunk = sizes.tight
    drive(engine, [(0.0, trace(min(sizes.chunks), sizes.vocab, "warm"))])
    speeds, first, held = [], [], []
    for repeat in range(sizes.repeats):
        engine.forget()
        streams = [
            (0.0, trace(chunk, sizes.vocab, "tight", repeat, number)) for number in range(sessions)
        ]
        found = drive(engine, streams)
        speeds.append(sessions * trace_length(chunk) / found.seconds)
        first += first_tokens(found)
        held.append(engine.kv_bytes())
    case = f"{sessions} x {trace_length(chunk)}"
    return [row("tight", case, policy, ttft_s=first, tokens_per_s=speeds, kv_bytes=held)]


def open_loop(engine: Measured, policy: str, sizes: Sizes) -> list[Row]:
    """Trajectories that arrive at random, at rising rates, until a rate is too much.

    Raises:
        ValueError: no file of trajectories was given, or it cannot be used.
    """
    if sizes.data is None:
        raise ValueError("the open loop needs --data, a file of trajectories")
    trajectories = read(Path(sizes.data), sizes.longest)
    drive(engine, arrivals(trajectories, max(sizes.rates), 1.0, sizes.vocab, seed=-1), 10.0)
    rows = []
    for rate in sizes.rates:
        engine.forget()
        sessions = arrivals(trajectories, rate, sizes.open_seconds, sizes.vocab)
        found = drive(engine, sessions, sizes.open_limit)
        rows.append(
            open_row(
                f"{rate:g}/s", policy, first_tokens(found), trajectory_times(found, sessions),
                tokens_per_s=sum(t.tokens for t in found.timings) / found.seconds,
                kv_bytes=engine.kv_bytes(), rate=rate, given_up=found.given_up,
            )
        )  # fmt: skip
        if found.given_up or rows[-1]["ttft_p90_ms"] >= 1000:
            break
    return rows


def trajectory_times(run: Run, sessions: Sequence[tuple[float, Any]]) -> list[float]:
    """Seconds from a trajectory's arrival to its last token; given-up ones until then."""
    ends: dict[int, float] = {}
    for timing in run.timings:
        done = run.seconds if timing.done is None else timing.done
        ends[timing.session] = max(done, ends.get(timing.session, 0.0))
    return [end - sessions[index][0] for index, end in sorted(ends.items())]

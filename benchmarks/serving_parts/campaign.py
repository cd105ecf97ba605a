"""One call of the benchmark: groups of engines, the gate first, the file after each group."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import gate
from .jobs import EngineProcess, Job, JobError, Step, wait_for
from .policies import HOST, STOCK
from .result import Result, check_identity, load, merge, save
from .summary import summary


class GateError(RuntimeError):
    """The plugin does not choose stock vLLM's tokens."""


@dataclass(frozen=True)
class Campaign:
    """What all engines of a call have in common.

    Attributes:
        path: result file.
        identity: hardware, versions, source, commit, model and environment.
        model: folder of the model.
        adapters: folders by agent, by rank.
        sizes: what is run, as plain data.
        gate: prompt tokens and generated tokens of the comparison with stock.
        folder: for files between processes.
        limit: seconds for the whole call; None for no limit.
        plugin_settings: further arguments of ``vllm.LLM`` where the plugin is on.
        handover_only: names that no other part is measured for.
        shared_settings: further arguments of ``vllm.LLM`` for a step, where a number of engines
            share the device.
    """

    path: Path
    identity: Mapping[str, Any]
    model: str
    adapters: Mapping[int, Mapping[str, Path]]
    sizes: Mapping[str, Any]
    gate: tuple[int, int]
    folder: Path
    limit: float | None
    plugin_settings: Mapping[str, Any] = field(default_factory=dict)
    handover_only: Sequence[str] = ()
    shared_settings: Callable[[Step, int], Mapping[str, Any]] = lambda step, count: {}

    def earlier(self) -> Result | None:
        """The result of earlier calls.

        Raises:
            MergeError: it is of another machine, version or source.
        """
        old = load(self.path)
        if old is not None:
            check_identity(old, self.identity)
        return old

    def run(self, plan: Sequence[Sequence[Step]]) -> Result:
        """Run the plan's engines; the file is written after each group, once the gate is passed.

        Raises:
            MergeError: the result file is of something else.
            GateError: the tokens differ; nothing is written.
            JobError: an engine failed or the time is over; what was written stays.
        """
        engines = [step.engine for group in plan for step in group]
        with ready(engines, self.folder) as processes:
            return self._run(plan, processes)

    def _run(self, plan: Sequence[Sequence[Step]], processes: Iterator[EngineProcess]) -> Result:
        begin = time.monotonic()
        old = self.earlier()
        call = 1 + max((row["call"] for row in old["rows"]), default=0) if old else 1
        origin = {"call": call, "commit": self.identity["commit"]}
        passed = old["gate"] if old else None
        result = old or {**self.identity, "gate": None, "engines": {}, "rows": []}
        chains: Path | None = None
        for number, group in enumerate(plan):
            running = [next(processes) for _ in group]
            chains = next((p.answer for p in running if p.engine == STOCK), chains)
            jobs = self._jobs(group, number, chains if passed is None else None)
            for process, job in zip(running, jobs, strict=True):
                print(f"{job.engine}: {', '.join(job.policies) or 'gate only'}", flush=True)
                process.begin(job)
            left = None if self.limit is None else self.limit - (time.monotonic() - begin)
            wait_for(running, left)
            answers = [process.result() for process in running]
            passed = verdict_of(chains, answers) or passed
            for step, job, answer in zip(group, jobs, answers, strict=True):
                name = f"{step.setup.name}, {step.engine}"
                rows = [{**row, **origin} for row in answer["rows"]]
                engines = {name: {**answer["engine"], **job.settings, **origin}}
                result = merge(result, {**self.identity, "engines": engines, "rows": rows})
                print(f"{name}: {answer['seconds']} s, {len(rows)} rows", flush=True)
            if passed is not None:
                result["gate"] = passed
                save(self.path, {**result, "summary": summary(result)})
            if not all(answer["done"] for answer in answers):
                kept = "what is done is kept" if passed else "nothing is kept without the gate"
                raise JobError(f"cut off after {self.limit} s; {kept}")
        return result

    def _jobs(self, group: Sequence[Step], number: int, chains: Path | None) -> list[Job]:
        """The group's jobs; with the gate where stock's chains are wanted."""
        turns = None
        if len(group) > 1:
            turns = self.folder / f"turns-{number}"
            turns.mkdir()
        return [
            Job(
                engine=step.engine,
                policies=step.policies,
                parts=list(step.setup.parts) if any(s.policies for s in group) else [],
                model=self.model,
                adapters={a: str(path) for a, path in self.adapters[step.setup.rank].items()},
                settings={
                    **step.setup.settings,
                    **({} if step.engine == STOCK else self.plugin_settings),
                    **(self.shared_settings(step, len(group)) if turns else {}),
                },
                sizes=dict(self.sizes),
                gate=list(self.gate) if chains and step.engine in (STOCK, HOST) else None,
                chains_from=str(chains or ""),
                handover_only=list(self.handover_only),
                turns=turns and str(turns),
                place=place,
                of=len(group),
                most=max(len(s.policies) for s in group),
            )
            for place, step in enumerate(group)
        ]


@contextlib.contextmanager
def ready(engines: Sequence[str], folder: Path) -> Iterator[Iterator[EngineProcess]]:
    """A process for each engine in turn; each is started when the one before is taken.

    One that nobody took is ended.
    """
    started: list[EngineProcess] = []

    def take() -> Iterator[EngineProcess]:
        for place in range(len(engines)):
            for engine in engines[len(started) : place + 2]:
                started.append(EngineProcess(engine, folder, len(started)))
            yield started[place]

    try:
        yield take()
    finally:
        for process in started:
            process.end()


def verdict_of(chains: Path | None, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The verdict as plain data; None where no answer is to be compared with stock's chains.

    Raises:
        GateError: the tokens differ, or cannot be compared.
    """
    tokens = next((answer["tokens"] for answer in answers if "tokens" in answer), None)
    if tokens is None or chains is None:
        return None
    stock = json.loads(chains.read_text())["chains"]
    verdict = gate.judge(gate.from_json(stock), *tokens)
    print(verdict, flush=True)
    if not verdict.passed:
        raise GateError(f"no numbers without stock's tokens under isolated: {verdict.why}")
    return {"compared": "isolated with stock", **asdict(verdict)}

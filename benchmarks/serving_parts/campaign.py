"""One call of the benchmark: engine after engine, the gate first, the file after each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import gate
from .jobs import EngineProcess, Job, JobError, Plan, Setup
from .policies import STOCK
from .result import Result, check_identity, load, merge, save
from .summary import summary


class GateError(RuntimeError):
    """The plugin does not choose stock vLLM's tokens."""


@dataclass(frozen=True)
class Campaign:
    """What all engines of a call have in common.

    Attributes:
        path: result file.
        identity: hardware, versions, commit, model and environment.
        model: folder of the model.
        adapters: folders by agent, by rank.
        sizes: what is run, as plain data.
        gate: prompt tokens and generated tokens of the comparison with stock.
        folder: for files between processes.
        limit: seconds for the whole call; None for no limit.
        plugin_settings: further arguments of ``vllm.LLM`` where the plugin is on.
        handover_only: names that no other part is measured for.
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

    def earlier(self) -> Result | None:
        """The result of earlier calls.

        Raises:
            MergeError: it is of another machine, version or commit.
        """
        old = load(self.path)
        if old is not None:
            check_identity(old, self.identity)
        return old

    def run(self, plan: Plan) -> Result:
        """Run the plan's engines; the file is written after each, once the gate is passed.

        Raises:
            MergeError: the result file is of something else.
            GateError: the tokens differ; nothing is written.
            JobError: an engine failed or the time is over; what was written stays.
        """
        with ready([engine for _, engine, _ in plan.steps], self.folder) as processes:
            return self._run(plan, processes)

    def _run(self, plan: Plan, processes: Iterator[EngineProcess]) -> Result:
        begin = time.monotonic()
        old = self.earlier()
        call = 1 + max((row["call"] for row in old["rows"]), default=0) if old else 1
        passed = old["gate"] if old else None
        result = old or {**self.identity, "gate": None, "engines": {}, "rows": []}
        chains: list[dict[str, Any]] | None = None
        for (setup, engine, policies), process in zip(plan.steps, processes, strict=True):
            print(f"{setup.name}, {engine}: {', '.join(policies) or 'gate only'}", flush=True)
            job = self._job(setup, engine, policies, passed is None, chains)
            left = None if self.limit is None else self.limit - (time.monotonic() - begin)
            answer = process.run(job, left)
            chains = answer.get("chains", chains)
            if "tokens" in answer:
                assert chains is not None
                passed = judged(chains, answer["tokens"])
            rows = [{**row, "call": call} for row in answer["rows"]]
            engines = {f"{setup.name}, {engine}": {**answer["engine"], **job.settings}}
            result = merge(result, {**self.identity, "engines": engines, "rows": rows})
            print(f"{setup.name}, {engine}: {answer['seconds']} s", flush=True)
            if passed is not None:
                result["gate"] = passed
                save(self.path, {**result, "summary": summary(result)})
            if not answer["done"]:
                kept = (
                    f"{len(rows)} rows are kept" if passed else "nothing is kept without the gate"
                )
                raise JobError(f"{setup.name}, {engine}: cut off; {kept}")
        return result

    def _job(
        self,
        setup: Setup,
        engine: str,
        policies: list[str],
        compare: bool,
        chains: list[dict[str, Any]] | None,
    ) -> Job:
        return Job(
            engine=engine,
            policies=policies,
            parts=list(setup.parts) if policies else [],
            model=self.model,
            adapters={agent: str(path) for agent, path in self.adapters[setup.rank].items()},
            settings={**setup.settings, **({} if engine == STOCK else self.plugin_settings)},
            sizes=dict(self.sizes),
            gate=list(self.gate) if compare else None,
            chains=chains if compare and engine != STOCK else None,
            handover_only=list(self.handover_only),
        )


@contextlib.contextmanager
def ready(engines: Sequence[str], folder: Path) -> Iterator[Iterator[EngineProcess]]:
    """A process for each engine in turn; each is started when the one before is taken.

    One that nobody took is ended.
    """
    started: list[EngineProcess] = []

    def take() -> Iterator[EngineProcess]:
        for place in range(len(engines)):
            for engine in engines[len(started) : place + 2]:
                started.append(EngineProcess(engine, folder))
            yield started[place]

    try:
        yield take()
    finally:
        for process in started:
            process.end()


def judged(chains: list[dict[str, Any]], tokens: Any) -> dict[str, Any]:
    """The verdict as plain data.

    Raises:
        GateError: the tokens differ, or cannot be compared.
    """
    verdict = gate.judge(gate.from_json(chains), *tokens)
    print(verdict, flush=True)
    if not verdict.passed:
        raise GateError(f"no numbers without stock's tokens under isolated: {verdict.why}")
    return {"compared": "isolated with stock", **asdict(verdict)}

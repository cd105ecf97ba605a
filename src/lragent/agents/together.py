"""Many runs side by side on one engine, whose steps serve all of them."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from lragent.agents.results import AgentResult
from lragent.agents.workflow import Steps
from lragent.engine import Engine


def run_together(
    engine: Engine, runs: Iterable[Steps], at_once: int
) -> Generator[tuple[int, AgentResult], None, None]:
    """Play `runs`, `at_once` of them at a time; each as soon as another has ended.

    Args:
        engine: serves the runs' backends, which have `steps_engine` False.
        runs: of `PlanActReflect.steps`; taken one by one as there is room.
        at_once: most runs under way.

    Yields:
        Each run's place in `runs` and its result, in the order in which they end.
    """
    waiting = enumerate(runs)
    active: dict[int, Steps] = {}
    try:
        while True:
            while len(active) < at_once and (following := next(waiting, None)) is not None:
                place, run = following
                active[place] = run
            if not active:
                return
            for place, run in list(active.items()):
                try:
                    next(run)
                except StopIteration as end:
                    del active[place]
                    yield place, end.value
            engine.step()
    finally:
        for run in active.values():
            run.close()

"""Measure vLLM with and without the plugin and write benchmarks/results/serving-<gpu>.json.

    python -m benchmarks.serving.run --parts handover --policies stock isolated base+lr
    python -m benchmarks.serving.run --parts trace --chunks 256 1024 4096
    python -m benchmarks.serving.run --parts open --data trace_step_lengths.jsonl.gz
    python -m benchmarks.serving.run --together --policies base+lr --other-source ../before
    python -m benchmarks.serving.run --tiny --out /tmp/serving.json

Every engine runs in a process of its own, on the same seeded prompts, on a Llama of the shape of
Llama-3.1-8B with random weights and three adapters on q_proj and v_proj (one A on v_proj). Parts:

- handover: TTFT of a new context, the same adapter again, and the others after it.
- workflow: sessions whose prompt passes plan, act and reflect three times; generated tokens/s.
- trace: LRAgent's 17-step trace, one stream, rank 8; tokens/s, sum of TTFT, peak KV bytes.
- tight: many such streams under a KV budget that holds one copy of their pages but not two.
- open: trajectories of --data arrive at random at rising rates; p50, p90 and p99.

A call writes one file. Adapters outside of groups are isolated, so one engine serves ``isolated``
and ``base+lr``. With --together all engines are started side by side, each with room for what is
measured alone, and take turns, in hand-overs request by request, else repeat by repeat: what slows
the machine then slows all of them. --other-source names another source tree of lragent, whose
plugin is measured beside this one under each policy; the file then has the ratios new/old.

Numbers count only where tests/gpu pass on that machine. Figures: benchmarks/serving/figure.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import machine, shapes
from benchmarks.common.adapters import write_adapters
from benchmarks.common.dummy_weights import LOAD_FORMAT
from benchmarks.common.files import RESULTS, file_name, save
from benchmarks.common.processes import Job, JobError, run_all
from benchmarks.common.sources import HERE, SourceTree
from benchmarks.serving import sizes
from benchmarks.serving.compare import new_over_old
from benchmarks.serving.plan import (
    HANDOVER,
    OPEN,
    PARTS,
    TRACE_RANK,
    WORKFLOW,
    Step,
    Task,
    make_plan,
)
from benchmarks.serving.policies import NAMES, TARGETS, is_old, is_stock, kind_of, with_old
from benchmarks.serving.trajectories import read

POLICIES = (
    "stock",
    "stock-targets",
    "stock-one",
    "isolated",
    "base",
    "base+lr",
    "base+lr-vllm-lora",
)
CAPTURED = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
PAGE = 32  # of the tiny model: the smallest that stock vLLM takes on a CPU
Json = dict[str, Any]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=[HANDOVER, WORKFLOW])
    add("--policies", nargs="+", choices=NAMES, default=POLICIES)
    add("--other-source", type=Path, help="source tree whose plugin is measured beside this one")
    add("--model", type=Path, help="folder of a Llama; random weights where it has none")
    add("--tiny", action="store_true", help="a tiny model and tiny sizes, on a CPU too")
    add("--repeats", type=int, help="of every case but the workflows and traces")
    add("--workflow-repeats", type=int)
    add("--trace-repeats", type=int)
    add("--workflow-seconds", type=float, help="after which no further repeat of one begins")
    add("--together", action="store_true", help="engines side by side, measured in turns")
    add("--handover-only", nargs="+", default=[], choices=NAMES, help="policies to keep short")
    add("--contexts", nargs="+", type=int, help="prompt tokens of the hand-over")
    add("--workflows", nargs="+", help="sessions x prompt tokens, such as 8x2048")
    add("--chunks", nargs="+", type=int, help="C of the traces: 912 + 4 C tokens")
    add("--trace-rank", type=int, default=TRACE_RANK, help="16 saves engines of their own")
    add("--tight", help="sessions x C, such as 8x4096")
    add("--tight-share", type=float, help="its KV budget over the base pages of all sessions")
    add("--rates", nargs="+", type=float, help="trajectories a second of the open loop")
    add("--open-seconds", type=float, help="for how long they arrive")
    add("--data", type=Path, help="trace_step_lengths.jsonl.gz, for the open loop")
    add("--set", nargs="+", default=[], metavar="NAME=JSON", help="arguments of vllm.LLM")
    add("--set-plugin", nargs="+", default=[], metavar="NAME=JSON", help="where the plugin is on")
    add("--commit", help="written into the result; default: the checkout's")
    add("--other-commit", help="likewise, of the other source tree")
    add("--out", type=Path, help="result file; default: benchmarks/results/serving-<gpu>.json")
    add("--limit", type=float, help="seconds for the whole call; what is done by then is kept")
    return parser.parse_args()


def pair(text: str | None) -> tuple[int, int] | None:
    """``8x2048`` as two numbers."""
    if text is None:
        return None
    try:
        first, second = map(int, text.split("x"))
    except ValueError:
        sys.exit(f"{text!r} is not of the form 8x2048")
    return first, second


def settings_of(options: argparse.Namespace, on_gpu: bool, has_weights: bool) -> dict[str, Any]:
    """Arguments of ``vllm.LLM`` for all engines."""
    settings: dict[str, Any] = {} if has_weights else {"load_format": LOAD_FORMAT}
    settings |= {"dtype": "bfloat16" if on_gpu else "float32"}
    if options.tiny:
        settings |= {"block_size": PAGE, "max_num_seqs": 16, "kv_cache_memory_bytes": 8 << 20}
        settings |= {"enforce_eager": not on_gpu}
    else:
        settings |= {"max_num_seqs": 128, "max_num_batched_tokens": 8192}
        settings |= {"gpu_memory_utilization": 0.9}
        # vLLM's own list has many more sizes between these: a minute more for each engine.
        settings |= {"compilation_config": {"cudagraph_capture_sizes": CAPTURED}}
    return settings | parsed(options.set)


def parsed(texts: Sequence[str]) -> dict[str, Any]:
    """``NAME=JSON`` as a dictionary."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            sys.exit(f"--set {text!r}: what follows = has to be JSON; strings need quotes")
    return found


def model_of(options: argparse.Namespace, folder: Path) -> tuple[shapes.Shape, Path]:
    """The shape that is measured, and the model's folder; written into `folder` without --model."""
    if options.model is None:
        shape = shapes.TINY if options.tiny else shapes.LLAMA_8B
        return shape, shapes.write_config(folder / "model", shape)
    try:
        return shapes.shape_at(options.model), options.model
    except ValueError as error:
        sys.exit(str(error))


def sizes_of(options: argparse.Namespace, shape: shapes.Shape) -> sizes.Sizes:
    """What is run."""
    chosen = sizes.with_options(
        sizes.SMALL if options.tiny else sizes.FULL,
        vocab=shape.vocab,
        repeats=options.repeats,
        workflow_repeats=options.workflow_repeats,
        trace_repeats=options.trace_repeats,
        workflow_seconds=options.workflow_seconds,
        contexts=options.contexts and tuple(options.contexts),
        workflows=options.workflows and tuple(pair(text) for text in options.workflows),
        chunks=options.chunks and tuple(options.chunks),
        tight=pair(options.tight),
        tight_share=options.tight_share,
        rates=options.rates and tuple(sorted(options.rates)),
        open_seconds=options.open_seconds,
        data=options.data and str(options.data.resolve()),
    )
    if OPEN in options.parts:
        if chosen.data is None:
            sys.exit("the open loop needs --data, a file of trajectories")
        try:
            read(Path(chosen.data), chosen.longest)
        except ValueError as error:
            sys.exit(str(error))
    return chosen


@dataclass(frozen=True)
class Measurement:
    """What all engines of a call have in common.

    Attributes:
        folder: for files between processes.
        model: folder of the model.
        adapters: folders by agent, by rank.
        sizes: what is run, as plain data.
        sources: the source trees; the second, if any, is the other one.
        plugin_settings: further arguments of ``vllm.LLM`` where the plugin is on.
        handover_only: names that no other part is measured for.
        shared_settings: further arguments of ``vllm.LLM`` for a step, where a number of engines
            share the device.
    """

    folder: Path
    model: str
    adapters: Mapping[int, Mapping[str, Path]]
    sizes: Mapping[str, Any]
    sources: Sequence[SourceTree]
    plugin_settings: Mapping[str, Any] = field(default_factory=dict)
    handover_only: Sequence[str] = ()
    shared_settings: Callable[[Step, int], Mapping[str, Any]] = lambda step, count: {}

    def run(self, plan: Sequence[Sequence[Step]], result: Json, path: Path, limit: float) -> None:
        """Run the plan's engines; the file is written after each group.

        Raises:
            JobError: an engine failed, or the time was over; what was written stays.
        """
        begin = time.monotonic()
        for number, group in enumerate(plan):
            folder = self.folder / f"group-{number}"
            tasks = {step.name: self._task(step, group, folder / "turns") for step in group}
            (folder / "turns").mkdir(parents=True)
            jobs = {
                step.name: Job(
                    "benchmarks.serving.worker",
                    asdict(tasks[step.name]),
                    self._source(step).environment(not is_stock(step.engine), folder / f"{place}"),
                )
                for place, step in enumerate(group)
            }
            left = limit - (time.monotonic() - begin)
            answers = run_all(jobs, folder, parallel=len(jobs), limit=left)
            for name, answer in answers.items():
                result["engines"][name] = {**answer["engine"], **tasks[name].settings}
                result["rows"] += answer["rows"]
                print(f"{name}: {answer['seconds']} s, {len(answer['rows'])} rows", flush=True)
            if len(self.sources) > 1:
                result["new_over_old"] = new_over_old(result["rows"])
            save(path, result)
            cut = [name for name, answer in answers.items() if not answer["done"]]
            if cut:
                raise JobError(f"cut off after {limit:.0f} s: {'; '.join(cut)}; the rest is kept")

    def _source(self, step: Step) -> SourceTree:
        return self.sources[is_old(step.engine)]

    def _task(self, step: Step, group: Sequence[Step], turns: Path) -> Task:
        in_turns = len(group) > 1
        return Task(
            engine=step.engine,
            policies=step.policies,
            parts=list(step.setup.parts),
            source=str(self._source(step).root),
            model=self.model,
            adapters={a: str(path) for a, path in self.adapters[step.setup.rank].items()},
            settings={
                **step.setup.settings,
                **({} if is_stock(step.engine) else self.plugin_settings),
                **(self.shared_settings(step, len(group)) if in_turns else {}),
            },
            sizes=dict(self.sizes),
            handover_only=list(self.handover_only),
            turns=str(turns) if in_turns else None,
            place=group.index(step),
            of=len(group),
            most=max(len(other.policies) for other in group),
        )


def identity(options: argparse.Namespace, sources: Sequence[SourceTree], model: str) -> Json:
    """What a result says of its run; ends the program where it could not be told apart."""
    commit = options.commit or machine.checked_out_commit(HERE.root)
    if commit is None:
        sys.exit("this is no git checkout; name the commit with --commit")
    found: Json = {
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "source": HERE.digest(),
        "commit": commit,
        "model": model,
        "environment": machine.environment(),
    }
    for other in sources[1:]:
        found["other_source"] = other.digest()
        found["other_commit"] = options.other_commit or machine.checked_out_commit(other.root)
    return found


def main() -> None:
    """Measure all engines, and write after each group of them."""
    begin = time.monotonic()
    options = arguments()
    on_gpu = machine.hardware()["driver"] is not None
    if options.out is None and (options.tiny or not on_gpu):
        sys.exit("a tiny or CPU result is no result of the project; give --out for it")
    sources, policies = [HERE], list(options.policies)
    if options.other_source:
        try:
            sources.append(SourceTree(options.other_source.resolve()))
        except ValueError as error:
            sys.exit(str(error))
        policies = with_old(policies)
    with tempfile.TemporaryDirectory(prefix="lragent-serving-") as name:
        folder = Path(name)
        shape, model = model_of(options, folder)
        has_weights = any(model.glob("*.safetensors"))
        chosen = sizes_of(options, shape)
        common = settings_of(options, on_gpu, has_weights)
        item_bytes = 4 if common["dtype"] == "float32" else 2
        setups = sizes.setups_of(
            options.parts, shape, chosen, common, item_bytes, options.trace_rank
        )
        weights = "its own" if has_weights else "random"
        result = identity(options, sources, f"{shape.name}, {weights} weights")
        result |= {"skipped": skipped(policies), "engines": {}, "rows": []}
        measurement = Measurement(
            folder=folder,
            model=str(model),
            adapters={
                rank: write_adapters(folder / f"rank{rank}", shape, rank, acting=True)
                for rank in {setup.rank for setup in setups}
            },
            sizes=asdict(chosen),
            sources=sources,
            plugin_settings=parsed(options.set_plugin),
            handover_only=options.handover_only,
            shared_settings=partial(
                sizes.shared_settings, shape=shape, sizes=chosen, item_bytes=item_bytes
            ),
        )
        path = options.out or RESULTS / file_name(result["hardware"]["device"], "serving")
        names = [policy for policy in policies if policy not in result["skipped"]]
        limit = (options.limit or float("inf")) - (time.monotonic() - begin)
        try:
            measurement.run(make_plan(setups, names, options.together), result, path, limit)
        except JobError as error:
            sys.exit(str(error))
    for entry in result.get("new_over_old", []):
        print(json.dumps(entry))
    print(path)


def skipped(policies: Sequence[str]) -> dict[str, str]:
    """Policies that this vLLM cannot be measured under, and why."""
    from benchmarks.serving.engine import knows_targets

    wanted = [policy for policy in policies if kind_of(policy) == TARGETS]
    if not wanted or knows_targets():
        return {}
    return dict.fromkeys(wanted, "this version of vLLM has no --lora-target-modules")


if __name__ == "__main__":
    main()

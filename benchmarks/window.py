"""Measure a window under `base+lr`: the next agent computes the last tokens of a context itself.

    python -m benchmarks.window --traces FILE --commit "$(git rev-parse HEAD)"

One role reads a context but for its last N tokens; the next one finds those pages and computes the
N tokens itself, as an engine with such an option would have it. The contexts are windows of the
demo's text and, with `--traces`, trajectories of AutoAct in the form of the roles' prompts (gzip of
JSON lines with `system`, `question`, and `steps` of `role`, `kind` and `text`). The result file is
written after each case, and a case that is in it is not measured again: `--count 0` only sums up.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.common.files import RESULTS, load, save
from benchmarks.common.machine import hardware

from lragent.agents.demo import demo_adapters, demo_text
from lragent.agents.prompts import Trajectory
from lragent.evaluation.cases import Case, Reading, Series
from lragent.evaluation.meter import Meter
from lragent.evaluation.samples import EvalSample, encode_samples, windows
from lragent.evaluation.statistics import Bootstrap, Table
from lragent.sharing import Policy
from lragent.training.samples import Message, Sample

LENGTHS = (500, 1000, 1500)
NEAR = 0.15
"""How far a context may be from one of `LENGTHS`, as a share of it."""
WINDOWS = ("0", "64", "256", "half", "all")
TURN = 32
"""Tokens that a role scores after a window of text."""
Json = dict[str, Any]


@dataclass(frozen=True)
class But(Reading):
    """A reading of everything but the last `own` tokens."""

    own: int

    def ends(self, tokens: int) -> list[int]:
        """See `Reading`."""
        return [tokens - self.own] * len(self.readers)


def reading(window: str, context: int, reader: str) -> But:
    """That which leaves one of `WINDOWS` to the role."""
    if window == "all":
        return But((), context)
    return But((reader,), context // 2 if window == "half" else int(window))


def trace_samples(path: Path) -> Iterator[Sample]:
    """Thoughts of plan and reflect, and arguments of act, each after all that stands before it."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        traces = [json.loads(line) for line in lines]
    for trace in traces:
        if not trace["system"].startswith("AutoAct"):
            continue
        story = Trajectory(trace["question"])
        for step in trace["steps"]:
            role, kind, text = step["role"], step["kind"], " ".join(step["text"].split())
            if kind == "thought":
                story.open_thought()
                yield _sample(role, story, f" {text}\n")
                story.write(f" {text}")
            elif kind == "tool_name":
                story.open_action()
                story.write(f" {text}")
                story.open_argument()
            elif kind == "tool_arg":
                yield _sample(role, story, f"{text}]")
                story.write(text)
                story.close_argument()
            elif kind == "observation":
                story.observe(text)
            else:
                break  # a verdict, or an action that is none


def _sample(role: str, story: Trajectory, output: str) -> Sample:
    messages = [Message(**message) for message in story.messages()]
    return Sample(role=role, input=messages, output=output)


class Job(NamedTuple):
    """A sample, what kind of context it has, of about which length, and who reads that."""

    kind: str
    length: int
    sample: EvalSample
    reader: str


def jobs(
    found: Mapping[str, Sequence[EvalSample]], roles: Sequence[str], count: int
) -> Iterator[Job]:
    """`count` of each kind, length and role, in turn; the other roles read in turn."""
    rng = random.Random(0)
    lists = []
    for kind, samples in found.items():
        for length in LENGTHS:
            for role in roles:
                others = [other for other in roles if other != role]
                near = [
                    sample
                    for sample in samples
                    if sample.role == role and abs(len(sample.context) - length) <= NEAR * length
                ]
                rng.shuffle(near)
                lists.append(
                    [
                        Job(kind, length, sample, others[number % len(others)])
                        for number, sample in enumerate(near[:count])
                    ]
                )
    for turn in zip_longest(*lists):
        yield from filter(None, turn)


def measured(meter: Meter, job: Job) -> Json:
    """What the role's output costs after each window, on its own, and without any adapter."""
    sample, page = job.sample, meter.engine.layout.page_size
    context = len(sample.context)
    readings = tuple(reading(window, context, job.reader) for window in WINDOWS)
    isolated, base, *arms = meter.measure(Case(Series.READER, sample, readings))
    by_window = {}
    for window, of, arm in zip(WINDOWS, readings, arms, strict=True):
        known = min([context - 1, *of.ends(context)]) // page * page if of.readers else 0
        by_window[window] = {
            "computed": context - known,
            **arm.model_dump(include={"nll", "kl", "agreeing"}),
        }
    return {
        "id": sample.id,
        "kind": job.kind,
        "length": job.length,
        "role": sample.role,
        "reader": job.reader,
        "context": context,
        "output": len(sample.output),
        "nll_isolated": isolated.nll,
        "nll_base": base.nll,
        "windows": by_window,
    }


def summarise(cases: Sequence[Json]) -> list[Json]:
    """Of each kind, length and window: the share of tokens computed again, and what it repairs.

    `repaired` is 1 - KL / KL of the window 0; KL is from `isolated`, in nats a token. `recovery` is
    `lragent eval`'s, None where the adapters gain nothing on these outputs.
    """
    rows = []
    for kind, length in dict.fromkeys((case["kind"], case["length"]) for case in cases):
        own = [case for case in cases if (case["kind"], case["length"]) == (kind, length)]
        if len(own) < 2:
            continue
        for window in WINDOWS:
            bootstrap = Bootstrap(np.array([_sums(case, window) for case in own]), 0)

            def share(over: str, under: str, bootstrap: Bootstrap = bootstrap) -> Json:
                def statistic(sums: Table) -> Table:
                    named: dict[str, Table] = dict(zip(COLUMNS, sums, strict=True))
                    return named[over] / named[under]

                return asdict(bootstrap.estimate(statistic))

            gains = share("gain", "output")["low"] > 0
            rows.append(
                {
                    "kind": kind,
                    "length": length,
                    "window": window,
                    "cases": len(own),
                    "context": sum(case["context"] for case in own) / len(own),
                    "computed": share("computed", "context"),
                    "kl": share("kl", "output"),
                    "repaired": share("kl_repaired", "kl_0"),
                    "agreement": share("agreeing", "output"),
                    "nll_ratio": share("nll", "nll_isolated"),
                    "recovery": share("kept", "gain") if gains else None,
                }
            )
    return rows


COLUMNS = ("computed", "context", "output", "kl", "kl_0", "kl_repaired", "agreeing", "nll")
COLUMNS += ("nll_isolated", "kept", "gain")


def _sums(case: Json, window: str) -> list[float]:
    arm, first = case["windows"][window], case["windows"][WINDOWS[0]]
    found = {
        **case,
        **arm,
        "kl_0": first["kl"],
        "kl_repaired": first["kl"] - arm["kl"],
        "kept": case["nll_base"] - arm["nll"],
        "gain": case["nll_base"] - case["nll_isolated"],
    }
    return [found[name] for name in COLUMNS]


def main(words: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "window.json")
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapters", type=Path, help="folder of one PEFT folder a role")
    parser.add_argument("--count", type=int, default=6, help="of each kind, length and role")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--commit", default="", help="of the sources")
    options = parser.parse_args(words)
    adapters = demo_adapters()
    if options.adapters is not None:
        adapters = {role: options.adapters / role for role in adapters}
    cases: list[Json] = load(options.out)["cases"] if options.out.is_file() else []
    done = {case["id"] for case in cases}
    with Meter(options.model, adapters, [Policy.BASE_LR], device=options.device) as meter:
        tokenizer: Any = meter.engine.tokenizer
        ids = tokenizer(demo_text())["input_ids"]
        found = {
            "text": [s for n in LENGTHS for s in windows(ids, list(adapters), n, TURN, 3)],
        }
        if options.traces is not None:
            found["trace"] = encode_samples(trace_samples(options.traces), tokenizer, "trace")
        for job in jobs(found, list(adapters), options.count):
            if job.sample.id in done:
                continue
            cases.append(measured(meter, job))
            write(options, cases)
            print(job.kind, job.length, job.sample.id, flush=True)
    write(options, cases)


def write(options: argparse.Namespace, cases: Sequence[Json]) -> None:
    """The result file, with all that was measured by now."""
    result = {
        "model": options.model,
        "turn": TURN,
        **hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "commit": options.commit,
        "rows": summarise(cases),
        "cases": cases,
    }
    save(options.out, result)


if __name__ == "__main__":
    main()

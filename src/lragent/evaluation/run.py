"""An evaluation from beginning to end, or from where the last run stopped."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

import lragent
from lragent.adapters import read_adapter
from lragent.content_hash import ContentHash
from lragent.engine.validation import as_device
from lragent.evaluation.cases import Case, Series, hand_over_cases, length_cases, reader_cases
from lragent.evaluation.config import EvalConfig
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.inputs import Inputs
from lragent.evaluation.journal import CaseResult, Journal
from lragent.evaluation.meter import Meter
from lragent.evaluation.samples import choose, encode_samples, windows
from lragent.evaluation.summary import Cell, summarise
from lragent.evaluation.verdict import Verdict, judge
from lragent.files import write_atomically

MEASUREMENTS = "measurements.jsonl"
RESULT = "result.json"


class Evaluation(BaseModel):
    """A result. `complete` is False after Ctrl-C; `verdict` is None when too little was measured.

    Attributes:
        settings: the configuration.
        environment: versions and device.
        readers: cells by policy and role; `by_reader` also tells the readers apart.
        lengths, hand_overs: the curves, by policy and by what they are named after.
        cases: every single measurement.
    """

    model_config = ConfigDict(frozen=True)

    settings: EvalConfig
    environment: dict[str, str]
    complete: bool
    verdict: Verdict | None
    readers: list[Cell]
    by_reader: list[Cell]
    lengths: list[Cell]
    hand_overs: list[Cell]
    cases: list[CaseResult]


def evaluate(
    config: EvalConfig,
    inputs: Inputs,
    out: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    cancel: threading.Event | None = None,
) -> Evaluation:
    """Measure what is not yet measured in the folder `out`, and sum up everything there.

    Args:
        config, inputs: what to measure.
        out: folder that gets `measurements.jsonl`, line by line, and `result.json`.
        on_progress: called with the cases done and all cases, at the start and after each.
        cancel: setting it ends the run after the case that is being measured.

    Raises:
        EvaluationError: too few samples, or `out` holds another evaluation.
        AdapterError, EngineError, TrainingError: as loading adapters, the engine, and reading
            samples raise them.
    """
    options = {"device": config.device, "kv_bytes": config.kv_bytes}
    with Meter(config.model, config.adapters, config.policies, **options) as meter:
        cases = _cases(config, inputs, meter)
        environment = _environment(config, meter)
        identity = _identity(config, inputs, environment, meter.engine.shape.digest)
        journal = Journal(out / MEASUREMENTS, CaseResult, identity)
        wanted = [case for case in cases if case.key not in journal.results]
        for done, case in enumerate(wanted, start=len(cases) - len(wanted)):
            on_progress(done, len(cases))
            if cancel is not None and cancel.is_set():
                break
            sample = case.sample
            journal.add(
                CaseResult(
                    key=case.key,
                    series=case.series,
                    role=sample.role,
                    context=len(sample.context),
                    output=len(sample.output),
                    arms=tuple(meter.measure(case)),
                )
            )
        on_progress(len(journal.results), len(cases))
    results = [journal.results[case.key] for case in cases if case.key in journal.results]
    evaluation = _sum_up(config, environment, results, complete=len(results) == len(cases))
    write_atomically(out / RESULT, evaluation.model_dump_json(indent=1) + "\n")
    return evaluation


def _sum_up(
    config: EvalConfig, environment: dict[str, str], results: list[CaseResult], complete: bool
) -> Evaluation:
    def cells(series: Series, *by: str) -> list[Cell]:
        return summarise(results, series, by, config.seed)

    readers = cells(Series.READER, "role")
    adapters = {role: read_adapter(path) for role, path in config.adapters.items()}
    return Evaluation(
        settings=config,
        environment=environment,
        complete=complete,
        verdict=judge(readers, config.limit, adapters),
        readers=readers,
        by_reader=cells(Series.READER, "role", "reader"),
        lengths=cells(Series.LENGTH, "context"),
        hand_overs=cells(Series.HAND_OVERS, "hand_overs"),
        cases=results,
    )


def _cases(config: EvalConfig, inputs: Inputs, meter: Meter) -> list[Case]:
    tokenizer = meter.engine.tokenizer
    if tokenizer is None:
        raise EvaluationError("the model has no tokenizer, which samples and text need")
    roles = list(config.adapters)
    limit = meter.engine.shape.max_positions
    ids: Any = tokenizer(inputs.text)["input_ids"] if inputs.text else []
    by_length = {
        length: windows(ids, roles, length, config.turn, config.per_length)
        for length in config.lengths
        if length + config.turn <= limit
    }
    if inputs.samples:
        samples = encode_samples(inputs.samples, tokenizer, "sample")
    else:
        samples = windows(ids, roles, config.lengths[0], config.turn, config.per_role)
    chosen = choose(samples, roles, config.per_role, limit, config.seed)
    page_size = meter.engine.layout.page_size
    return [
        *reader_cases(chosen, roles, config.readers),
        *(c for found in by_length.values() for c in length_cases(found, roles)),
        *hand_over_cases(chosen, roles, config.hand_overs, page_size, config.per_hand_over),
    ]


def _environment(config: EvalConfig, meter: Meter) -> dict[str, str]:
    device = as_device(config.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "lragent": lragent.__version__,  # a checkout need not be installed
        **{package: version(package) for package in ("torch", "transformers", "peft")},
        "python": platform.python_version(),
        "device": gpu or platform.processor() or platform.machine(),
        "pages": meter.engine.layout.describe(),
    }


def _identity(
    config: EvalConfig, inputs: Inputs, environment: dict[str, str], weights: str
) -> dict[str, Any]:
    """What the measurements depend on; more samples of the same inputs may be added later."""
    content = ContentHash("evaluation-inputs").text(inputs.text)
    for sample in inputs.samples:
        content.text(sample.model_dump_json())
    return {
        "model": config.model,
        "weights": weights,
        "adapters": {role: read_adapter(path).digest for role, path in config.adapters.items()},
        "policies": [policy.value for policy in config.policies],
        "inputs": content.hexdigest(),
        "readers": config.readers,
        "hand_overs": list(config.hand_overs),
        "turn": config.turn,
        "seed": config.seed,
        "environment": environment,
    }

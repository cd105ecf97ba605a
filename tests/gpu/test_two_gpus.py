"""Two GPUs give the answers of one, within the difference that stock vLLM has between the two.

A small Llama with random weights, three agents and an adapter of all modules, asked as
`tests.gpu.agreement.program` says: in bf16, with full graphs. The variable ``TWO_GPUS_OUT`` names a
file to keep the comparisons in.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.common.adapters import write_adapters
from benchmarks.common.dummy_weights import fill
from benchmarks.common.processes import Job, run_all
from benchmarks.common.shapes import TINY, config_of, shape_at
from tests.gpu.agreement.cases import STOCK, Case, settings_of
from tests.gpu.agreement.compare import same_places, spread, tolerance, until_they_part
from tests.gpu.agreement.everywhere import pairs_everywhere, write_everywhere
from tests.gpu.agreement.program import LENGTH, NEEDED, forced
from tests.gpu.agreement.report import keep, served_from_json
from tests.gpu.agreement.test_agreement import PARALLEL, WORKER, environment

pytestmark = [
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM for GPUs"),
]
POLICIES = ("base+lr", "neutral")
SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 4096,
}
Answers = dict[str, Any]


def write_model(folder: Path) -> Path:
    """A Llama of `SHAPE` with weights of ordinary size: ranks have to load parts of the same."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(TINY) | SHAPE))
    config = AutoConfig.from_pretrained(str(folder))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        fill(name, parameter.data, seed)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Answers]:
    """Answers by policy (or stock) and number of GPUs."""
    folder = tmp_path_factory.mktemp("two-gpus")
    model = write_model(folder / "model")
    shape = shape_at(model)
    half = LENGTH + NEEDED
    ids = [1 + n * 7919 % (shape.vocab - 1) for n in range(2 * half)]
    adapters = write_adapters(folder / "adapters", shape, 8)
    common = {
        "model": str(model),
        "adapters": {name: str(path) for name, path in adapters.items()},
        "others": {n: str(path) for n, path in write_everywhere(folder, model, 8).items()},
        "forced": [asdict(step) for step in forced(ids[half:], LENGTH)],
        "ids": ids[:half],
        "length": LENGTH,
    }
    cases = {(p, ranks): Case(p, "full", "v2") for p in (STOCK, *POLICIES) for ranks in (1, 2)}
    jobs = {
        f"{case.policy}, {ranks}": Job(
            WORKER,
            common
            | {"policy": case.policy}
            | {"settings": settings_of(case) | {"tensor_parallel_size": ranks}},
            environment(folder / f"{case.policy} {ranks}", case.policy != STOCK)
            | {"VLLM_USE_V2_MODEL_RUNNER": "1"},
        )
        for (_, ranks), case in cases.items()
    }
    found = run_all(jobs, folder, parallel=PARALLEL)
    return {key: found[f"{case.policy}, {key[1]}"] for key, case in cases.items()}


def pairs(one: Answers, two: Answers) -> list[Any]:
    """Choices at the same places of the two engines."""
    a, b = served_from_json(one), served_from_json(two)
    everywhere = pairs_everywhere(one["everywhere"], two["everywhere"])
    return [
        *same_places(a.forced, b.forced),
        *until_they_part(a.steps, a.free, b.steps, b.free),
        *chain(*everywhere.values()),
    ]


@pytest.fixture(scope="module")
def rows(served: dict[tuple[str, int], Answers]) -> dict[str, dict[str, Any]]:
    """How stock and each policy differ between one GPU and two, and the wrong policy's answers."""
    compared = {
        **{p: (served[p, 1], served[p, 2]) for p in (STOCK, *POLICIES)},
        "control": (served["neutral", 1], served["base+lr", 2]),
    }
    found = {name: spread(pairs(one, two)) for name, (one, two) in compared.items()}
    largest, mean = tolerance(found[STOCK], [])
    rows = {
        name: asdict(found[name])
        | {"holds": found[name].within((largest, mean)), "same_hits": hits(one) == hits(two)}
        for name, (one, two) in compared.items()
    }
    rows["tolerance"] = {"max": largest, "mean": mean}
    keep("TWO_GPUS_OUT", rows, "small Llama, random weights")
    return rows


def hits(answers: Answers) -> list[list[int]]:
    """Cached tokens after given text, which is the same for all engines."""
    return served_from_json(answers).forced.cached


@pytest.mark.parametrize("policy", POLICIES)
def test_two_gpus_answer_as_one(policy: str, rows: dict[str, dict[str, Any]]) -> None:
    assert rows[policy]["holds"], rows
    assert rows[policy]["same_hits"]


def test_what_is_wrong_lies_outside_of_the_tolerance(rows: dict[str, dict[str, Any]]) -> None:
    """Another policy's answers are no rounding of these: its agents see other contexts."""
    assert rows["control"]["mean"] > rows["tolerance"]["mean"], rows

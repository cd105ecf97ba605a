"""vLLM with and without the plugin gives the same answers, within stock's own difference.

SmolLM2-135M-Instruct and the bundled adapters in bf16: a context of about 1,000 tokens passes
through plan, act and reflect, each with 16 tokens, then all three and the base model are asked at
once. Once text follows each prompt and every engine is asked for each of its tokens; once every
vLLM engine follows its own greedy tokens, and the embedded engine is asked for each of those. What
is compared are the log-probabilities of the likeliest 20 tokens, the chosen token, and the number
of tokens found in the cache.

The tolerance is twice the difference between stock vLLM and the embedded engine, plus what one
engine differs from itself in other batches and graphs. As controls another adapter's answers, and
those of an adapter of all modules without one of them, have to lie outside of it.

Only the engines of the selected tests are started: ``pytest tests/gpu -k "base+lr and full"``.
The variable ``AGREEMENT_OUT`` names a file to keep the comparisons in.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from benchmarks.common.adapters import AGENTS
from benchmarks.common.processes import Job, run_all
from benchmarks.common.sources import HERE
from tests.gpu.agreement.cases import (
    EMBEDDED_SETTINGS,
    PLUGIN_CASES,
    STOCK,
    STOCK_CASES,
    Case,
    settings_of,
)
from tests.gpu.agreement.everywhere import WITHOUT, write_everywhere
from tests.gpu.agreement.program import LENGTH, NEEDED, forced
from tests.gpu.agreement.report import Row, keep, rows_of

from lragent.agents.demo import demo_adapters, demo_text
from lragent.engine.loader import resolve_model

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM for GPUs"),
]
WORKER = "tests.gpu.agreement.worker"
PARALLEL = max(2, min(8, len(os.sched_getaffinity(0)) // 4))


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """All comparisons of the engines that the selected tests ask for."""
    wanted = {
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.module is request.module
        and "case" in item.callspec.params
    }
    cases = [*STOCK_CASES, *(case for case in PLUGIN_CASES if case in wanted)]
    found = compared(cases, tmp_path_factory.mktemp("agreement"))
    keep("AGREEMENT_OUT", found, "SmolLM2-135M-Instruct, demo adapters")
    return found


def compared(cases: Sequence[Case], folder: Path) -> list[Row]:
    """Start the cases' engines, then the embedded one under their policies, and compare."""
    from transformers import AutoTokenizer

    model = resolve_model("smollm2")
    ids = AutoTokenizer.from_pretrained(str(model))(demo_text())["input_ids"]
    half = LENGTH + NEEDED
    assert len(ids) >= 2 * half
    folders = demo_adapters()
    common = {
        "model": str(model),
        "adapters": {agent: str(folders[agent]) for agent in AGENTS},
        "others": {n: str(p) for n, p in write_everywhere(folder, Path(model), 8).items()},
        "forced": [asdict(step) for step in forced(ids[half:], LENGTH)],
        "ids": ids[:half],
        "length": LENGTH,
    }
    served = run_all(
        {
            case.name: Job(
                WORKER,
                {**common, "policy": case.policy, "settings": settings_of(case)},
                environment(folder / case.name, case.policy != STOCK)
                | {"VLLM_USE_V2_MODEL_RUNNER": "1" if case.runner == "v2" else "0"},
            )
            for case in cases
        },
        folder,
        parallel=PARALLEL,
    )
    policies = dict.fromkeys(["isolated", *(c.policy for c in cases if c.policy != STOCK)])
    embedded = run_all(
        {
            policy: Job(
                WORKER,
                {
                    **common,
                    "policy": policy,
                    "settings": EMBEDDED_SETTINGS,
                    "replays": {
                        case.name: served[case.name]["steps"]
                        for case in cases
                        if policy in (case.policy, "isolated" if case.policy == STOCK else None)
                    },
                },
                environment(folder / policy, False),
            )
            for policy in policies
        },
        folder,
        parallel=PARALLEL,
    )
    return rows_of(cases, served, embedded)


def environment(folder: Path, plugin: bool) -> dict[str, str]:
    """Engines side by side: torch would start as many threads and compilers in each as there are
    cores."""
    share = str(max(1, len(os.sched_getaffinity(0)) // PARALLEL))
    shares = {"OMP_NUM_THREADS": share, "TORCHINDUCTOR_COMPILE_THREADS": share}
    return {**HERE.environment(plugin, folder), **shares}


@pytest.mark.parametrize("case", PLUGIN_CASES, ids=lambda case: case.name)
def test_the_plugin_agrees(case: Case, rows: list[Row]) -> None:
    """With the embedded engine, with stock vLLM, and with the first graph mode and runner."""
    mine = [row for row in rows if row["subject"] == case.name]
    kinds = {row["kind"] for row in mine}
    assert {"embedded", "everywhere"} <= kinds
    assert ("stock" in kinds) == (case.policy == "isolated")
    assert [row for row in mine if not row["holds"]] == []


def test_what_is_wrong_lies_outside_of_the_tolerance(rows: list[Row]) -> None:
    controls = [row for row in rows if row["kind"] == "control"]
    assert len(controls) == 1 + len(WITHOUT)
    assert [row for row in controls if not row["holds"]] == []

"""The benchmark of a window: who computes what, against the dense reference, and its sums."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from benchmarks.window import Job, measured, summarise, trace_samples
from tests.adapters.factory import make_adapter, tiny_llama
from tests.engine.models import prompt_of
from tests.engine.shared_reference import Seen, SharedReference
from tests.engine.tokenizer import word_tokenizer

from lragent.evaluation.meter import Meter
from lragent.evaluation.samples import EvalSample
from lragent.sharing import Policy

PAGE = 16
CONTEXT, OUTPUT = prompt_of(300, 0, vocab=64), prompt_of(4, 1, vocab=64)


def test_the_role_computes_the_window_itself(tmp_path: Path) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path / "Llama-Test")
    word_tokenizer().save_pretrained(tmp_path / "Llama-Test")
    plan = make_adapter(tmp_path / "plan", model, seed=1)
    group = {"plan": plan, "act": make_adapter(tmp_path / "act", model, seed=2, share_a_with=plan)}
    sample = EvalSample("s", "act", tuple(CONTEXT), tuple(OUTPUT))
    with Meter(str(tmp_path / "Llama-Test"), group, [Policy.BASE_LR], device="cpu") as meter:
        case = measured(meter, Job("text", 300, sample, "plan"))

    for window, own in (("0", 0), ("64", 64), ("256", 256), ("half", 150)):
        known = (300 - own) // PAGE * PAGE
        reference, seen, nll = SharedReference(model, group), Seen(), 0.0
        reference.base_lr(seen, "plan", CONTEXT[:known])
        for token, new in zip(OUTPUT, [CONTEXT[known:], *([t] for t in OUTPUT)], strict=False):
            nll -= reference.base_lr(seen, "act", new)[token].item()
        assert case["windows"][window]["computed"] == 300 - known
        assert case["windows"][window]["nll"] == pytest.approx(nll, rel=1e-4)
    assert case["windows"]["all"]["computed"] == 300
    assert case["windows"]["all"]["kl"] == pytest.approx(0, abs=1e-4)
    assert case["windows"]["0"]["kl"] > 0.005

    rows = {row["window"]: row for row in summarise([case, {**case, "id": "other"}])}
    first, half = (case["windows"][window] for window in ("0", "half"))
    assert rows["half"]["computed"]["value"] == half["computed"] / 300
    assert rows["half"]["repaired"]["value"] == pytest.approx(1 - half["kl"] / first["kl"])


def test_traces_become_the_roles_prompts(tmp_path: Path) -> None:
    steps = [
        {"role": "plan", "kind": "thought", "text": "I look\nit up."},
        {"role": "plan", "kind": "tool_name", "text": "Retrieve"},
        {"role": "act", "kind": "tool_arg", "text": "Oland"},
        {"role": "tool", "kind": "observation", "text": "An island."},
        {"role": "reflect", "kind": "thought", "text": "Right."},
        {"role": "reflect", "kind": "verdict", "text": "Reflect[right]"},
        {"role": "plan", "kind": "thought", "text": "Never read."},
    ]
    trace = {"system": "AutoAct", "question": "What?", "steps": steps}
    path = tmp_path / "traces.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(trace) + "\n" + json.dumps(trace | {"system": "other"}) + "\n")
    found = [(s.role, s.input[-1].content, s.output) for s in trace_samples(path)]  # type: ignore[union-attr]
    start = "Thought 1: I look it up.\nAction 1: Retrieve["
    assert found == [
        ("plan", "Thought 1:", " I look it up.\n"),
        ("act", start, "Oland]"),
        ("reflect", f"{start}Oland]\nObservation 1: An island.\nThought 2:", " Right.\n"),
    ]

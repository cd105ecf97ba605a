"""From adapters to a verdict: groups of adapters that sharing harms more or less."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import SIZES, prompt_of, tiny_model
from tests.engine.tokenizer import word_tokenizer

from lragent.adapters import read_adapter
from lragent.engine import Engine, SamplingParams
from lragent.evaluation.config import EvalConfig, Limit
from lragent.evaluation.inputs import read_inputs
from lragent.evaluation.run import evaluate
from lragent.evaluation.statistics import Estimate
from lragent.evaluation.summary import Cell
from lragent.evaluation.verdict import Outcome, judge
from lragent.sharing import Policy

KINDS: dict[str, dict[str, Any]] = {
    "weak": {"std": 0.01},
    "hostile": {"std": 0.5},
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    tiny_model().save_pretrained(folder)
    word_tokenizer(SIZES["vocab_size"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def adapters(kind: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, model = tmp_path_factory.mktemp(kind), tiny_model()
    one = make_adapter(root / "one", model, seed=1, **KINDS[kind])
    two = make_adapter(root / "two", model, seed=2, share_a_with=one, **KINDS[kind])
    return {"one": one, "two": two}


@pytest.fixture(scope="module")
def data(model_folder: Path, adapters: Mapping[str, Path], tmp_path_factory: Any) -> list[Path]:
    """Samples in which each role writes what it writes on its own, and a text."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    with Engine(str(model_folder), adapters, device="cpu", kv_bytes=1 << 20) as engine:
        assert engine.tokenizer is not None
        for number in range(12):
            role = ("one", "two")[number % 2]
            prompt = prompt_of(70 + number, number)
            done = engine.generate(
                prompt, adapter=role, sampling_params=SamplingParams(max_tokens=8, ignore_eos=True)
            )
            text, output = (engine.tokenizer.decode(ids) for ids in (prompt, list(done.token_ids)))
            lines.append(json.dumps({"role": role, "input": text, "output": output}))
        samples, text_file = folder / "samples.jsonl", folder / "text.txt"
        samples.write_text("\n".join(lines))
        text_file.write_text(str(engine.tokenizer.decode(prompt_of(300, 99))))
    return [samples, text_file]


def test_adapters_that_sharing_harms_little_and_much(
    kind: str, model_folder: Path, adapters: dict[str, Path], data: list[Path], tmp_path: Path
) -> None:
    config = EvalConfig(
        model=str(model_folder), adapters=adapters, per_role=6, lengths=(64, 128), per_length=2,
        hand_overs=(1, 4), per_hand_over=2, turn=8, device="cpu", kv_bytes=8 << 20,
    )  # fmt: skip
    samples, text = data
    inputs = read_inputs([samples], [], [text], tuple(adapters))
    found = evaluate(config, inputs, tmp_path)
    assert found.complete
    assert found.verdict is not None
    expected = {"weak": "full", "hostile": "isolated"}
    assert found.verdict.policy == expected[kind]
    outcomes = {(f.policy, f.role): f.outcome for f in found.verdict.findings}
    assert len(outcomes) == 2 * (len(Policy) - 1)
    if kind == "hostile":
        assert set(outcomes.values()) == {Outcome.EXCEEDS}
        assert str(found.verdict).startswith("do not share")
    isolated = [c for c in found.readers if c.policy == "isolated"]
    assert [(c.nll_ratio.value, c.kl.value, c.exact.value) for c in isolated] == [(1, 0, 100)] * 2


def cell(
    policy: str,
    role: str,
    ratio: tuple[float, float, float],
    lost: tuple[float, float, float],
    isolated: float = 1.0,
) -> Cell:
    """`isolated`: the NLL without sharing."""
    some = Estimate(1.0, 1.0, 1.0)
    loss = Estimate(*(isolated * (times - 1) for times in ratio))
    return Cell(
        policy=policy, role=role, samples=9, nll=some, nll_ratio=Estimate(*ratio),
        nll_loss=loss, kl=some, agreement=some, exact=some,
        exact_loss=Estimate(*lost), recovery=None,
    )  # fmt: skip


NONE_LOST = (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("ratio", "lost", "outcome"),
    [
        ((1.01, 0.99, 1.03), NONE_LOST, Outcome.HOLDS),
        ((1.01, 0.99, 1.04), NONE_LOST, Outcome.UNDECIDED),
        ((1.04, 1.02, 1.06), NONE_LOST, Outcome.EXCEEDS),
        ((1.00, 1.00, 1.00), (5.0, 0.4, 9.0), Outcome.HOLDS),
        ((1.00, 1.00, 1.00), (5.0, 0.6, 9.0), Outcome.EXCEEDS),
    ],
)
def test_limits(ratio: Any, lost: Any, outcome: Outcome, group: dict[str, Path]) -> None:
    adapters = {"plan": read_adapter(group["plan"])}
    verdict = judge([cell("base", "plan", ratio, lost)], Limit(), adapters)
    assert verdict is not None
    assert [f.outcome for f in verdict.findings] == [outcome]
    held = outcome is Outcome.HOLDS
    assert verdict.policy is (Policy.BASE if held else Policy.ISOLATED)
    assert any("more samples" in line for line in verdict.advice) == (outcome is Outcome.UNDECIDED)


@pytest.mark.parametrize(
    ("isolated", "outcome"),
    [(0.01, Outcome.HOLDS), (0.03, Outcome.UNDECIDED), (0.09, Outcome.EXCEEDS)],
)
def test_a_ratio_of_next_to_nothing_is_no_loss(
    isolated: float, outcome: Outcome, group: dict[str, Path]
) -> None:
    adapters = {"plan": read_adapter(group["plan"])}
    nearly_certain = cell("base", "plan", (1.2, 1.1, 1.5), NONE_LOST, isolated)
    verdict = judge([nearly_certain], Limit(), adapters)
    assert verdict is not None
    assert [f.outcome for f in verdict.findings] == [outcome]


def test_one_role_beyond_the_limit_is_enough(group: dict[str, Path]) -> None:
    adapters = {role: read_adapter(group[role]) for role in ("plan", "act")}
    good, bad = (1.0, 1.0, 1.0), (1.5, 1.4, 1.6)
    cells = [
        cell(policy, role, bad if (policy, role) == ("full", "act") else good, NONE_LOST)
        for policy in ("base", "full", "base+lr")
        for role in adapters
    ]
    verdict = judge(cells, Limit(), adapters)
    assert verdict is not None
    assert verdict.policy is Policy.BASE_LR
    assert judge(cells[1:], Limit(), adapters) is None, "a role was not measured"


def test_neutral_goes_before_what_costs_the_same(group: dict[str, Path]) -> None:
    good = (1.0, 1.0, 1.0)
    cells = [cell(policy, "plan", good, NONE_LOST) for policy in ("base", "base+lr", "neutral")]
    verdict = judge(cells, Limit(), {"plan": read_adapter(group["plan"])})
    assert verdict is not None
    assert (verdict.policy, verdict.advice) == (Policy.NEUTRAL, ())


def test_adapters_on_other_layers_are_named(model_folder: Path, tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "wide", tiny_model(), targets=("v_proj", "o_proj", "up_proj"))
    cells = [cell("full", "wide", (2.0, 1.9, 2.1), NONE_LOST)]
    verdict = judge(cells, Limit(), {"wide": read_adapter(path)})
    assert verdict is not None
    train, targets = verdict.advice
    assert "Train wide for neutral" in train
    assert "LoRA on o_proj, up_proj" in targets

"""The meter against dense references, which know no pages, slots or requests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.adapters.factory import make_adapter, tiny_llama
from tests.engine.models import prompt_of
from tests.engine.neutral_reference import neutral_logprobs
from tests.engine.shared_reference import Seen, SharedReference
from torch import Tensor

from lragent.adapters import read_adapter
from lragent.evaluation.cases import Case, Reading, Series
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.meter import BASE_MODEL, Measurement, Meter
from lragent.evaluation.samples import EvalSample
from lragent.sharing import Policy

PAGE = 16
CONTEXT = prompt_of(5 * PAGE + 7, 0, vocab=64)
OUTPUT = prompt_of(6, 1, vocab=64)
READINGS = (Reading(("plan",)), Reading(("plan", "act", "plan")))
RTOL = 1e-4
"""fp32 sums over six tokens; a few hundred roundings of 6e-8 each."""


@pytest.fixture(scope="module")
def measured(
    model_folder: Path, group: dict[str, Path]
) -> dict[tuple[str, tuple[str, ...]], Measurement]:
    sample = EvalSample("s", "reflect", tuple(CONTEXT), tuple(OUTPUT))
    with Meter(str(model_folder), group, tuple(Policy), device="cpu", kv_bytes=8 << 20) as meter:
        arms = meter.measure(Case(Series.READER, sample, READINGS))
    return {(arm.policy, arm.readers): arm for arm in arms}


def alone(adapter: Path | None) -> Tensor:
    """`[output, vocab]` log-probabilities of the output's positions, by transformers and PEFT."""
    model = tiny_llama()
    used = model if adapter is None else PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.inference_mode():
        logits = used(input_ids=torch.tensor([[*CONTEXT, *OUTPUT]])).logits[0]
    return logits[len(CONTEXT) - 1 : -1].log_softmax(-1)


def shared(group: dict[str, Path], policy: Policy, reading: Reading) -> Tensor:
    """The same after `reading`; whole pages of each part are the readers' work."""
    if policy is Policy.NEUTRAL:
        adapter, turn = read_adapter(group["reflect"]), len(CONTEXT) - 1
        return neutral_logprobs(tiny_llama(), adapter, [*CONTEXT, *OUTPUT], turn)[turn:-1]
    reference, seen = SharedReference(tiny_llama(), group), Seen()
    done = 0
    for i, reader in enumerate(reading.readers, start=1):
        end = len(CONTEXT) * i // len(reading.readers) // PAGE * PAGE
        if policy is Policy.BASE:
            reference.base(seen, Seen(), reader, CONTEXT[done:end])
        else:
            reference.base_lr(seen, reader, CONTEXT[done:end])
        done = end
    own = Seen()
    rows = []
    for new in (CONTEXT[done:], *([token] for token in OUTPUT[:-1])):
        if policy is Policy.BASE:
            rows.append(reference.base(seen, own, "reflect", new))
        else:
            rows.append(reference.base_lr(seen, "reflect", new))
    return torch.stack(rows)


def check(found: Measurement, rows: Tensor, isolated: Tensor) -> None:
    target = torch.tensor(OUTPUT)
    nll = -sum(row[token].item() for row, token in zip(rows, OUTPUT, strict=True))
    kl = sum((p.exp() * (p - q)).sum().item() for p, q in zip(isolated, rows, strict=True))
    assert found.nll == pytest.approx(nll, rel=RTOL)
    assert found.kl == pytest.approx(kl, rel=RTOL, abs=1e-5)
    assert found.agreeing == (rows.argmax(-1) == isolated.argmax(-1)).sum()
    assert found.exact == torch.equal(rows.argmax(-1), target)


def test_isolated_and_base_model(
    group: dict[str, Path], measured: dict[tuple[str, tuple[str, ...]], Measurement]
) -> None:
    isolated = alone(group["reflect"])
    check(measured["isolated", ()], isolated, isolated)
    check(measured[BASE_MODEL, ()], alone(None), isolated)


@pytest.mark.parametrize("reading", READINGS, ids=lambda r: f"{len(r.readers)}-hand-overs")
@pytest.mark.parametrize("policy", [Policy.BASE_LR, Policy.BASE, Policy.NEUTRAL])
def test_shared_contexts(
    group: dict[str, Path],
    measured: dict[tuple[str, tuple[str, ...]], Measurement],
    policy: Policy,
    reading: Reading,
) -> None:
    rows = shared(group, policy, reading)
    isolated = alone(group["reflect"])
    assert (rows - isolated).abs().max() > 100 * RTOL, "an adapter too weak to show a difference"
    check(measured[policy.value, reading.readers], rows, isolated)


def test_every_policy_and_reading_is_measured(
    measured: dict[tuple[str, tuple[str, ...]], Measurement],
) -> None:
    shared_policies = [p.value for p in Policy if p is not Policy.ISOLATED]
    assert list(measured) == [("isolated", ()), (BASE_MODEL, ())] + [
        (policy, reading.readers) for policy in shared_policies for reading in READINGS
    ]


def test_greedy_outputs_are_exact_under_isolated(
    model_folder: Path, group: dict[str, Path]
) -> None:
    with Meter(str(model_folder), group, tuple(Policy), device="cpu", kv_bytes=8 << 20) as meter:
        written = meter.engine.generate(CONTEXT, adapter="act (isolated)").token_ids[:9]
        sample = EvalSample("s", "act", tuple(CONTEXT), written)
        isolated, *_ = meter.measure(Case(Series.READER, sample, (Reading(("plan",)),)))
    assert isolated.exact
    assert isolated.agreeing == 9


def test_few_pages_change_no_result(model_folder: Path, group: dict[str, Path]) -> None:
    """Arms run one after the other when the pages do not hold them together."""
    sample = EvalSample("s", "reflect", tuple(CONTEXT), tuple(OUTPUT))
    case = Case(Series.READER, sample, READINGS)
    page_bytes = 16 * 2 * (2 * 2 * 8 + 3 * 4) * 4  # 2 layers, 2 heads of 8, 3 slots of rank 4
    results = []
    for pages in (12, 1000):
        with Meter(
            str(model_folder), group, tuple(Policy), device="cpu", kv_bytes=pages * page_bytes
        ) as meter:
            results.append(meter.measure(case))
    for one, other in zip(*results, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-5)
        assert one.kl == pytest.approx(other.kl, rel=1e-4, abs=1e-6)


def test_one_adapter_is_no_group(model_folder: Path, group: dict[str, Path]) -> None:
    with pytest.raises(EvaluationError, match="at least two adapters"):
        Meter(str(model_folder), {"plan": group["plan"]}, tuple(Policy))


def test_alora_adapters_lose_nothing_under_neutral(model_folder: Path, tmp_path: Path) -> None:
    """They act from their invocation tokens on, whoever reads the context before them."""
    adapters = {
        role: make_adapter(
            tmp_path / role, tiny_llama(), seed=seed, alora_invocation_tokens=CONTEXT[40:42]
        )
        for seed, role in enumerate(("plan", "act"))
    }
    sample = EvalSample("s", "act", tuple(CONTEXT), tuple(OUTPUT))
    case = Case(Series.READER, sample, (Reading(("plan",)),))
    options = {"device": "cpu", "kv_bytes": 8 << 20}
    with Meter(str(model_folder), adapters, [Policy.NEUTRAL], **options) as meter:
        arms = {arm.policy: arm for arm in meter.measure(case)}
    assert arms["neutral"].kl == pytest.approx(0, abs=1e-5)
    assert arms[BASE_MODEL].kl > 1e-3

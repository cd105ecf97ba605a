from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.adapters.factory import edit_config, make_adapter
from transformers import LlamaForCausalLM

from lragent.adapters import Adapter, read_adapter
from lragent.cli.inspect_report import render_report
from lragent.sharing.compare import PairSummary, compare_adapters


@pytest.fixture
def plan(tmp_path: Path, model: LlamaForCausalLM) -> Adapter:
    return read_adapter(make_adapter(tmp_path / "plan", model))


def only_pair(first: Adapter, second: Adapter) -> PairSummary:
    (pair,) = compare_adapters({"one": first, "two": second}).pairs
    return pair


def test_shared_a_shares_everything(tmp_path: Path, plan: Adapter, model: LlamaForCausalLM) -> None:
    act = make_adapter(tmp_path / "act", model, seed=2, share_a_with=plan.path)
    pair = only_pair(plan, read_adapter(act))
    assert (pair.shares_base, pair.shares_slot, pair.same_content) == (True, True, False)
    assert pair.reasons == ()


def test_the_same_weights_twice(plan: Adapter) -> None:
    assert only_pair(plan, plan).same_content


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param({}, "A of v_proj differs in 2 of 2 layers", id="ordinary"),
        pytest.param({"rank": 8}, "differs in 2 of 2 layers; ranks 4 and 8", id="rank"),
        pytest.param(
            {"seed": 1, "dtype": torch.bfloat16}, "stored as float32 and bfloat16", id="dtype"
        ),
        pytest.param({"targets": ["q_proj"]}, "only one has LoRA on v_proj", id="no-values"),
        pytest.param(
            {"targets": ["k_proj", "v_proj"]}, "only two has LoRA on k_proj", id="keys-too"
        ),
        pytest.param({"layers_to_transform": [1]}, "differs in 2 of 2 layers", id="one-layer"),
    ],
)
def test_why_no_slot_is_shared(
    tmp_path: Path,
    plan: Adapter,
    model: LlamaForCausalLM,
    settings: dict[str, object],
    reason: str,
) -> None:
    other = make_adapter(tmp_path / "other", model, **{"seed": 2, **settings})  # type: ignore[arg-type]
    pair = only_pair(plan, read_adapter(other))
    assert pair.shares_base
    assert not pair.shares_slot
    assert reason in "; ".join(pair.reasons)


def test_no_slot_is_needed_without_cached_terms(tmp_path: Path, model: LlamaForCausalLM) -> None:
    first, second = (
        read_adapter(make_adapter(tmp_path / str(seed), model, seed=seed, targets=["q_proj"]))
        for seed in (1, 2)
    )
    report = compare_adapters({"one": first, "two": second})
    assert "no LR slot is needed" in report.pairs[0].reasons[0]
    assert report.groups[0].relative_bytes == dict.fromkeys(
        ("neutral", "full", "base", "base+lr"), 0.5
    )


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ("tiny/Mistral-Test", "other base model: tiny/Llama-Test and tiny/Mistral-Test"),
        (None, "two does not say which base model it belongs to"),
    ],
)
def test_another_base_shares_nothing(
    tmp_path: Path, plan: Adapter, model: LlamaForCausalLM, stated: str | None, reason: str
) -> None:
    other = make_adapter(tmp_path / "other", model, seed=2, share_a_with=plan.path)
    edit_config(other, base_model_name_or_path=stated)
    report = compare_adapters({"one": plan, "two": read_adapter(other)})
    (pair,) = report.pairs
    assert (pair.shares_base, pair.shares_slot, pair.reasons) == (False, False, (reason,))
    assert report.groups == ()


def test_sizes_tell_base_models_of_one_name_apart(
    tmp_path: Path, plan: Adapter, model: LlamaForCausalLM
) -> None:
    other = make_adapter(tmp_path / "other", model, targets=["q_proj"])
    adapter = read_adapter(other)
    module = next(iter(adapter.modules.values()))
    object.__setattr__(module, "a", torch.zeros(4, 64))
    pair = only_pair(plan, adapter)
    assert not pair.shares_base
    assert pair.reasons == (f"other base model: {module.name} has another size",)


def test_proposed_groups(tmp_path: Path, plan: Adapter, model: LlamaForCausalLM) -> None:
    act = read_adapter(make_adapter(tmp_path / "act", model, seed=2, share_a_with=plan.path))
    wide = read_adapter(make_adapter(tmp_path / "wide", model, seed=3, rank=8))
    (group,) = compare_adapters({"plan": plan, "act": act}).groups
    assert (group.members, group.base_model, group.slots) == (
        ("plan", "act"),
        "tiny/Llama-Test",
        1,
    )
    # K and V of 2 heads of size 8: 32 numbers; each isolated page has 4 more.
    assert group.relative_bytes == {
        "neutral": 36 / 72,
        "full": 32 / 72,
        "base": 40 / 72,
        "base+lr": 36 / 72,
    }
    (group,) = compare_adapters({"plan": plan, "act": act, "wide": wide}).groups
    assert group.slots == 2
    assert group.relative_bytes["base+lr"] == (32 + 2 * 8) / (36 + 36 + 40)


def test_alora_shares_under_neutral_only(
    tmp_path: Path, plan: Adapter, model: LlamaForCausalLM
) -> None:
    judge = read_adapter(make_adapter(tmp_path / "judge", model, alora_invocation_tokens=[5]))
    report = compare_adapters({"plan": plan, "judge": judge})
    (pair,) = report.pairs
    assert pair.shares_base
    assert not pair.shares_slot
    assert pair.reasons == ("aLoRA (judge): shares under neutral only, needs no LR slot",)
    assert report.groups[0].relative_bytes == {"neutral": (32 + 4) / (32 + 4 + 32)}


def test_json_and_table(tmp_path: Path, plan: Adapter, model: LlamaForCausalLM) -> None:
    name = "other[bold]"
    other = read_adapter(make_adapter(tmp_path / name, model, seed=2, targets=["v_proj", "o_proj"]))
    report = compare_adapters({"plan": plan, name: other})
    data = json.loads(json.dumps(report.to_json()))
    first = data["adapters"][0]
    assert first["digest"] == plan.digest
    assert first["a_digests"] == dict(plan.a_digests)
    assert first["slot_digest"] == plan.slot_digest
    assert first["targets"]["v_proj"] == {"layers": 2, "ranks": [4], "scalings": [2.0]}
    assert data["pairs"][0]["shares_base"] is True
    assert data["groups"][0]["slots"] == 2
    console = Console(width=160, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    console.print(render_report(report))
    text = console.export_text()
    for part in (name, plan.digest[:10], "no cached term", "A of v_proj differs", "2 LR slots"):
        assert part in text


def test_a_single_adapter(plan: Adapter) -> None:
    report = compare_adapters({"plan": plan})
    assert (len(report.adapters), report.pairs, report.groups) == (1, (), ())

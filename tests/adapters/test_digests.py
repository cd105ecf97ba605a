"""A digest follows the content that changes the result, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.factory import edit_config, edit_tensors, make_adapter
from transformers import LlamaForCausalLM

from lragent.adapters import read_adapter
from lragent.adapters.digests import add_tensor
from lragent.content_hash import ContentHash

V0 = "base_model.model.model.layers.0.self_attn.v_proj"


def test_another_name_and_place_give_the_same_digest(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "other-name")
    edit_config(copy, base_model_name_or_path="me/llama-test", lora_dropout=0.5, peft_version="0.1")
    edit_tensors(copy, lambda t: dict(reversed(t.items())))
    first, second = read_adapter(folder), read_adapter(copy)
    assert first.digest == second.digest
    assert first.slot_digest == second.slot_digest
    assert first.a_digests == second.a_digests


def test_acting_tokens_change_the_adapter_and_not_its_slot(folder: Path) -> None:
    plain, found = read_adapter(folder), []
    for tokens in (None, [5], [5, 6]):
        sidecar = {"schema": 1, "group": "g", "role": "r", "a_digest": {}, "acting_tokens": tokens}
        (folder / "lragent.json").write_text(json.dumps(sidecar))
        found.append(read_adapter(folder))
    assert found[0].digest == plain.digest
    assert len({adapter.digest for adapter in found}) == 3
    assert {adapter.slot_digest for adapter in found} == {plain.slot_digest}


@pytest.mark.parametrize("side", ["A", "B"])
def test_one_changed_value(folder: Path, side: str) -> None:
    before = read_adapter(folder)

    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[f"{V0}.lora_{side}.weight"][0, 0] += 2**-10
        return tensors

    edit_tensors(folder, change)
    after = read_adapter(folder)
    assert after.digest != before.digest
    assert after.a_digests["q_proj"] == before.a_digests["q_proj"]
    assert (after.a_digests["v_proj"] == before.a_digests["v_proj"]) is (side == "B")
    assert (after.slot_digest == before.slot_digest) is (side == "B")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"lora_alpha": 16}, id="alpha"),
        pytest.param({"use_rslora": True}, id="rslora"),
        pytest.param({"alpha_pattern": {"layers.1.self_attn.q_proj": 2}}, id="alpha-pattern"),
    ],
)
def test_config_that_changes_the_result(folder: Path, change: dict[str, object]) -> None:
    before = read_adapter(folder)
    edit_config(folder, **change)
    after = read_adapter(folder)
    assert after.digest != before.digest
    # The scaling is applied after A, so what an LR slot holds stays the same.
    assert after.slot_digest == before.slot_digest


def test_configs_that_mean_the_same(folder: Path) -> None:
    before = read_adapter(folder).digest
    edit_config(
        folder,
        r=99,
        rank_pattern={".*_proj": 4},
        lora_alpha=1,
        alpha_pattern={"q_proj": 8, "v_proj": 8.0},
        target_modules=".*(q|v)_proj",
    )
    assert read_adapter(folder).digest == before


def test_the_dtype_counts(tmp_path: Path, model: LlamaForCausalLM) -> None:
    half = make_adapter(tmp_path / "half", model, dtype=torch.bfloat16)
    single = shutil.copytree(half, tmp_path / "single")
    edit_tensors(single, lambda t: {name: x.float() for name, x in t.items()})
    assert read_adapter(half).slot_digest != read_adapter(single).slot_digest


def test_a_layer_less_is_another_adapter(folder: Path) -> None:
    before = read_adapter(folder)
    edit_tensors(folder, lambda t: {n: x for n, x in t.items() if "layers.1.self_attn.v" not in n})
    after = read_adapter(folder)
    assert after.digest != before.digest
    assert after.slot_digest != before.slot_digest


def test_shared_a(tmp_path: Path, model: LlamaForCausalLM) -> None:
    plan = make_adapter(tmp_path / "plan", model, seed=1)
    act = read_adapter(make_adapter(tmp_path / "act", model, seed=2, share_a_with=plan))
    other = read_adapter(make_adapter(tmp_path / "other", model, seed=3))
    first = read_adapter(plan)
    assert act.a_digests["v_proj"] == first.a_digests["v_proj"]
    assert act.slot_digest == first.slot_digest
    assert act.a_digests["q_proj"] != first.a_digests["q_proj"]
    assert act.digest != first.digest
    assert other.slot_digest != first.slot_digest


def test_the_slot_covers_keys_too(tmp_path: Path, model: LlamaForCausalLM) -> None:
    targets = ["k_proj", "v_proj"]
    plan = make_adapter(tmp_path / "plan", model, targets=targets)
    half = make_adapter(tmp_path / "half", model, targets=targets, seed=2, share_a_with=plan)
    both = make_adapter(
        tmp_path / "both",
        model,
        targets=targets,
        seed=2,
        share_a_with=plan,
        share_projections=targets,
    )
    wanted = read_adapter(plan).slot_digest
    assert read_adapter(half).slot_digest != wanted
    assert read_adapter(both).slot_digest == wanted


def test_fields_are_framed() -> None:
    def digest(*texts: str) -> str:
        content = ContentHash("test")
        for text in texts:
            content.text(text)
        return content.hexdigest()

    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab") != digest("ab", "")


def test_fields_are_typed() -> None:
    number = ContentHash("test").number(0.0).hexdigest()
    assert ContentHash("test").integer(0).hexdigest() != number
    assert ContentHash("test").text("\0" * 8).hexdigest() != number


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.integers(1, 4), max_size=3))
def test_the_shape_counts_and_strides_do_not(first: list[int], second: list[int]) -> None:
    def digest(tensor: torch.Tensor) -> str:
        return add_tensor(ContentHash("test"), tensor).hexdigest()

    one, other = torch.zeros(first), torch.zeros(second)
    assert (digest(one) == digest(other)) is (first == second)
    values = torch.arange(12.0).reshape(3, 4)
    assert digest(values.T.contiguous().T) == digest(values)
    assert digest(values.T) != digest(values)

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.adapters.factory import (
    edit_config,
    edit_tensors,
    linear_shapes,
    make_adapter,
    tiny_llama,
)
from transformers import LlamaForCausalLM

from lragent.adapters import Adapter, AdapterError, ModelFacts, check_against_model, read_adapter
from lragent.adapters.checks import short_model_name

NAME = "tiny/Llama-Test"


def check(
    adapter: Adapter,
    shapes: Mapping[str, tuple[int, int]],
    name: str,
    has_key_norm: bool = False,
    allow_other_base: bool = False,
) -> None:
    facts = ModelFacts(name, shapes, has_key_norm)
    check_against_model(adapter, facts, allow_other_base=allow_other_base)


@pytest.fixture(scope="module")
def shapes(model: LlamaForCausalLM) -> dict[str, tuple[int, int]]:
    return linear_shapes(model)


@pytest.mark.parametrize(
    "name",
    [
        "tiny/Llama-Test",
        "LLAMA-TEST",
        "/models/llama-test/",
        "C:\\models\\llama-test",
        "/cache/models--tiny--Llama-Test/snapshots/0123abcd",
    ],
)
def test_names_of_the_same_base(
    folder: Path, shapes: dict[str, tuple[int, int]], name: str
) -> None:
    assert short_model_name(name) == "llama-test"
    check(read_adapter(folder), shapes, name)


@pytest.mark.parametrize("name", ["tiny/Llama-Test-2", "Llama-Test/other", "llama"])
def test_another_base_model(folder: Path, shapes: dict[str, tuple[int, int]], name: str) -> None:
    adapter = read_adapter(folder)
    with pytest.raises(AdapterError, match=f"{NAME} .*not on {name}; .*allow_other_base"):
        check(adapter, shapes, name)
    check(adapter, shapes, name, allow_other_base=True)


def test_no_base_model_stated(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    edit_config(folder, base_model_name_or_path=None)
    check(read_adapter(folder), shapes, "any/model")


def test_module_that_the_model_lacks(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    renamed = {name.replace("layers.1.", "layers.7."): shape for name, shape in shapes.items()}
    with pytest.raises(AdapterError) as caught:
        check(read_adapter(folder), renamed, NAME)
    assert "has no linear layer model.layers.1.self_attn.q_proj; did you mean" in str(caught.value)
    assert "'model.layers.0.self_attn.q_proj'" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((64, 16), "v_proj.lora_A.weight has shape (4, 32), but tiny/Llama-Test needs (4, 64)"),
        ((32, 32), "v_proj.lora_B.weight has shape (16, 4), but tiny/Llama-Test needs (32, 4)"),
    ],
)
def test_tensors_that_do_not_fit(
    folder: Path, shapes: dict[str, tuple[int, int]], shape: tuple[int, int], part: str
) -> None:
    adapter = read_adapter(folder)
    check(adapter, shapes, NAME)
    with pytest.raises(AdapterError) as caught:
        check(adapter, shapes | {"model.layers.1.self_attn.v_proj": shape}, NAME)
    assert part in str(caught.value)
    assert "base model that it was trained on" in str(caught.value)


def test_targeted_layer_without_tensors(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    edit_tensors(folder, lambda t: {n: x for n, x in t.items() if "layers.1.self_attn.v" not in n})
    with pytest.raises(AdapterError, match=r"covers model\.layers\.1\..*v_proj.*incomplete"):
        check(read_adapter(folder), shapes, NAME)
    edit_config(folder, target_modules=r".*\.q_proj|model\.layers\.0\..*v_proj")
    check(read_adapter(folder), shapes, NAME)


def test_unstated_targets_are_taken_from_the_tensors(
    folder: Path, shapes: dict[str, tuple[int, int]]
) -> None:
    for targets in ("all-linear", None):
        edit_config(folder, target_modules=targets)
        check(read_adapter(folder), shapes, NAME)


def test_some_layers_only(tmp_path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    path = make_adapter(tmp_path / "a", tiny_llama(), layers_to_transform=[1])
    check(read_adapter(path), shapes, NAME)


def test_keys_under_a_norm(tmp_path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    adapter = read_adapter(make_adapter(tmp_path / "k", tiny_llama(), targets=["k_proj"]))
    check(adapter, shapes, NAME)
    with pytest.raises(AdapterError, match=r"normalises keys after k_proj.*without k_proj"):
        check(adapter, shapes, NAME, has_key_norm=True)


def test_values_under_a_key_norm(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    check(read_adapter(folder), shapes, NAME, has_key_norm=True)

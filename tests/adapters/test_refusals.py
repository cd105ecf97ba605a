"""Each thing that the scheme cannot hold is refused, with what is at fault and the way out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from tests.adapters.factory import (
    CONFIG,
    WEIGHTS,
    edit_config,
    edit_tensors,
    make_adapter,
    tiny_llama,
)
from transformers import LlamaForCausalLM

from lragent.adapters import AdapterError, read_adapter

V0 = "base_model.model.model.layers.0.self_attn.v_proj"


def refused(folder: Path, *parts: str, **options: int) -> None:
    """The folder is refused, and the message has each of the parts."""
    with pytest.raises(AdapterError) as caught:
        read_adapter(folder, **options)
    for part in parts:
        assert part in str(caught.value)


def test_the_unspoilt_adapter_is_accepted(folder: Path) -> None:
    assert read_adapter(folder).rank == 4


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no adapter folder", "nowhere", "hf download")


def test_file_in_place_of_a_folder(folder: Path) -> None:
    refused(folder / CONFIG, "is a file", "give the folder")


def test_missing_config_names_subfolders_that_have_one(folder: Path) -> None:
    refused(folder.parent, "has no adapter_config.json", "subfolders plan", "save_pretrained")


def test_missing_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    refused(folder, "has no adapter_model.safetensors", "save the adapter")


def test_pickle_is_not_opened(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    # Anything that tried to unpickle this would fail in another way.
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04not a pickle")
    refused(folder, "adapter_model.bin is a pickle file", "save_pretrained(NEW_FOLDER)")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"\xff" * 64, id="no header"),
        pytest.param(lambda data: data[:8] + b"?" + data[9:], id="header is no JSON"),
    ],
)
def test_corrupt_weights(folder: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = folder / WEIGHTS
    path.write_bytes(spoil(path.read_bytes()))
    refused(folder, WEIGHTS, "no readable safetensors file", "copy or download it again")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param(b'{"r": 4', "cannot be read as JSON", id="cut short"),
        pytest.param(b"\xff\xfe{}", "cannot be read as JSON", id="not utf-8"),
        pytest.param(b"[1]", "JSON list where an object belongs", id="list"),
        pytest.param(b"{}", "no field peft_type", id="no type"),
    ],
)
def test_corrupt_config(folder: Path, text: bytes, part: str) -> None:
    (folder / CONFIG).write_bytes(text)
    refused(folder, CONFIG, part)


def test_saved_dora(tmp_path: Path, model: LlamaForCausalLM) -> None:
    path = make_adapter(tmp_path / "dora", model, use_dora=True)
    refused(path, "use_dora=True", "merge_and_unload")


def test_dora_tensors_under_a_config_that_hides_them(
    tmp_path: Path, model: LlamaForCausalLM
) -> None:
    path = make_adapter(tmp_path / "dora", model, use_dora=True)
    edit_config(path, use_dora=False)
    refused(path, "lora_magnitude_vector", "DoRA")


def test_saved_bias(tmp_path: Path, model: LlamaForCausalLM) -> None:
    path = make_adapter(tmp_path / "bias", model, bias="lora_only")
    refused(path, "bias='lora_only'", 'bias="none"')


def test_bias_tensors_under_a_config_that_hides_them(folder: Path) -> None:
    edit_tensors(folder, lambda t: t | {f"{V0}.bias": torch.zeros(16)})
    refused(folder, f"{V0}.bias", 'bias="none"')


def test_saved_lora_bias(tmp_path: Path, model: LlamaForCausalLM) -> None:
    path = make_adapter(tmp_path / "bias", model, lora_bias=True)
    refused(path, "lora_bias=True", "lora_bias=False")
    edit_config(path, lora_bias=False)
    refused(path, "lora_B.bias", "lora_bias=False")


def test_saved_modules_to_save(tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "full", tiny_llama(), modules_to_save=["lm_head"])
    refused(path, "modules_to_save=['lm_head']", "train it again without modules_to_save")
    edit_config(path, modules_to_save=None)
    refused(path, "lm_head", "output head")


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_saved_embedding_adapters(tmp_path: Path, target: str) -> None:
    path = make_adapter(tmp_path / "emb", tiny_llama(), targets=["v_proj", target])
    refused(path, f"target_modules='{target}'", "embedding or on the output head")
    edit_config(path, target_modules=".*")
    refused(path, target, "not adapted" if target == "lm_head" else "LoRA on embeddings")


def test_trainable_tokens(tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "tokens", tiny_llama(), trainable_token_indices=[1, 2])
    refused(path, "trainable_token_indices=", "rows of the embedding")


def test_other_peft_type(tmp_path: Path) -> None:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    wrapped = get_peft_model(tiny_llama(), config)
    wrapped.save_pretrained(str(tmp_path / "prefix"), save_embedding_layers=False)
    refused(tmp_path / "prefix", "peft_type='PREFIX_TUNING'", "plain LoRA")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("megatron_config", {"tensor_model_parallel_size": 2}),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 2}),
        ("kasa_config", {"beta": 0.1}),
        ("monteclora_config", {"num_samples": 4}),
        ("use_a_variant_of_next_year", True),
        ("velora_config", {"scale": 1}),
    ],
)
def test_variants_that_change_the_forward_pass(folder: Path, field: str, value: object) -> None:
    edit_config(folder, **{field: value})
    refused(folder, CONFIG, f"{field}={value!r}", "is not supported")


def test_unknown_fields_that_are_switched_off_do_no_harm(folder: Path) -> None:
    before = read_adapter(folder).digest
    edit_config(folder, use_a_variant_of_next_year=False, another=None, third={}, fourth=[])
    assert read_adapter(folder).digest == before


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq"])
def test_initialisations_that_change_the_base(folder: Path, init: str) -> None:
    edit_config(folder, init_lora_weights=init)
    refused(folder, f"init_lora_weights='{init}'", "path_initial_model_for_weight_conversion")


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_initialisations_without_effect_after_training(folder: Path, init: object) -> None:
    before = read_adapter(folder).digest
    edit_config(folder, init_lora_weights=init)
    assert read_adapter(folder).digest == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alora_invocation_tokens", [-2]),
        ("alora_invocation_tokens", "<|judge|>"),
        ("r", 0),
        ("r", "8"),
        ("r", True),
        ("lora_alpha", None),
        ("lora_alpha", float("nan")),
        ("use_rslora", "no"),
        ("rank_pattern", {"v_proj": -1}),
        ("alpha_pattern", ["v_proj"]),
        ("target_modules", 3),
    ],
)
def test_fields_of_another_type(folder: Path, field: str, value: object) -> None:
    edit_config(folder, **{field: value})
    refused(folder, f"field {field}", "correct the config")


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_patterns_that_are_no_regular_expression(folder: Path, field: str) -> None:
    edit_config(folder, **{field: {"v_proj(": 4}})
    refused(folder, "'v_proj('", "no valid regular expression")


def test_settings_that_peft_itself_refuses(folder: Path) -> None:
    edit_config(folder, target_modules=".*v_proj", layers_to_transform=[0])
    refused(folder, "PEFT refuses this config", "layers_to_transform")


def test_rank_above_the_limit(folder: Path) -> None:
    assert read_adapter(folder, max_rank=4).rank == 4
    refused(folder, "rank 4", "limit of 3", "--max-rank", max_rank=3)


def test_rank_above_the_limit_in_a_pattern(tmp_path: Path, model: LlamaForCausalLM) -> None:
    path = make_adapter(tmp_path / "a", model, rank_pattern={"layers.1.self_attn.v_proj": 16})
    refused(path, "rank 16", "limit of 8", max_rank=8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["A", "B"])
def test_values_that_are_not_finite(folder: Path, side: str, value: float) -> None:
    name = f"{V0}.lora_{side}.weight"

    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[name][1, 2] = value
        return tensors

    edit_tensors(folder, spoil)
    refused(folder, name, "NaN or Inf", "earlier checkpoint")


@pytest.mark.parametrize(("gone", "left"), [("A", "B"), ("B", "A")])
def test_half_a_pair(folder: Path, gone: str, left: str) -> None:
    edit_tensors(folder, lambda t: {n: x for n, x in t.items() if n != f"{V0}.lora_{gone}.weight"})
    refused(folder, f"{V0} has lora_{left} but no lora_{gone}", "incomplete")


def test_rank_that_disagrees_with_the_config(folder: Path) -> None:
    edit_config(folder, r=8)
    refused(folder, "lora_A.weight has rank 4", "rank 8", "rank_pattern")


def test_rank_that_disagrees_with_a_pattern(folder: Path) -> None:
    edit_config(folder, rank_pattern={"layers.1.self_attn.v_proj": 2})
    refused(folder, "layers.1.self_attn.v_proj.lora_A.weight has rank 4", "rank 2")


def test_a_and_b_of_different_rank(folder: Path) -> None:
    name = f"{V0}.lora_B.weight"
    edit_tensors(folder, lambda t: t | {name: t[name][:, :3].contiguous()})
    refused(folder, f"{name} has rank 3", "rank 4")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.float8_e4m3fn])
def test_dtypes_that_are_not_computed_with(folder: Path, dtype: torch.dtype) -> None:
    name = f"{V0}.lora_A.weight"
    edit_tensors(folder, lambda t: t | {name: t[name].to(dtype)})
    refused(folder, name, str(dtype).removeprefix("torch."), "float16, bfloat16 or float32")


@pytest.mark.parametrize("shape", [(128,), (4, 32, 1, 1), (0, 32)])
def test_tensors_that_are_no_matrix(folder: Path, shape: tuple[int, ...]) -> None:
    name = f"{V0}.lora_A.weight"
    edit_tensors(folder, lambda t: t | {name: torch.zeros(shape)})
    refused(folder, name, str(list(shape)), "matrix")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.v_proj.lora_A.weight",
        f"{V0}.lora_A.default.weight",
        f"{V0}.base_layer.weight",
        "base_model.model.score.lora_A.weight",
    ],
)
def test_names_that_peft_does_not_write(folder: Path, name: str) -> None:
    edit_tensors(folder, lambda t: t | {name: torch.zeros(4, 32)})
    refused(folder, f"tensor {name} is not named as PEFT names", "save_pretrained")


@pytest.mark.parametrize("projection", ["qkv_proj", "kv_a_proj_with_mqa", "query_key_value"])
def test_fused_projections(folder: Path, projection: str) -> None:
    edit_tensors(folder, lambda t: {n.replace("v_proj", projection): x for n, x in t.items()})
    edit_config(folder, target_modules=["q_proj", projection])
    refused(folder, f"adapts {projection}", "separate q_proj, k_proj, v_proj")


def test_tensors_that_peft_would_drop(folder: Path) -> None:
    edit_config(folder, target_modules=["q_proj"])
    refused(folder, f"{V0}.lora_A.weight", "outside target_modules", "PEFT would ignore it")


def test_no_tensors_at_all(folder: Path) -> None:
    edit_tensors(folder, lambda t: {})
    refused(folder, "holds no tensors")


def sidecar(folder: Path, **changes: object) -> None:
    content = {"schema": 1, "group": "qa", "role": "act", "a_digest": {}} | changes
    (folder / "lragent.json").write_text(json.dumps(content))


def test_sidecar_that_agrees_is_noted(folder: Path) -> None:
    plain = read_adapter(folder)
    sidecar(folder, a_digest={"v_proj": plain.a_digests["v_proj"]})
    noted = read_adapter(folder)
    assert noted.notes == ("trained as act of the group qa",)
    assert noted.digest == plain.digest
    sidecar(folder, trained_for="neutral")
    assert read_adapter(folder).notes[-1] == "acts from the prompt's last token on"
    sidecar(folder, trained_for="neutral", acting_tokens=[3, 4])
    assert read_adapter(folder).notes[-1] == "acts from the prompt's tokens [3, 4] on"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"a_digest": {"v_proj": "0" * 64}}, "states A digest 000000000000… for v_proj"),
        ({"a_digest": {"k_proj": "0" * 64}}, "has no such projection"),
        ({"schema": 2}, "field schema"),
        ({"role": 3}, "field role"),
        ({"more": 1}, "field more"),
        ({"trained_for": "full"}, "field trained_for"),
        ({"acting_tokens": []}, "field acting_tokens"),
        ({"acting_tokens": [-1]}, "field acting_tokens"),
    ],
)
def test_sidecar_that_disagrees(folder: Path, changes: dict[str, object], part: str) -> None:
    sidecar(folder, **changes)
    refused(folder, "lragent.json", part, "remove the file")


def test_what_the_sidecar_says_of_training(folder: Path) -> None:
    sidecar(folder, trained_for="neutral", acting_tokens=[7, 8])
    adapter = read_adapter(folder)
    assert (adapter.trained_for, adapter.acting_tokens) == ("neutral", (7, 8))
    edit_config(folder, alora_invocation_tokens=[9])  # what PEFT trained with counts
    assert read_adapter(folder).acting_tokens == (9,)


def test_sidecar_that_is_no_json(folder: Path) -> None:
    (folder / "lragent.json").write_text("{")
    refused(folder, "lragent.json", "cannot be read as JSON")


def test_messages_name_the_folder(folder: Path) -> None:
    edit_config(folder, use_dora=True)
    with pytest.raises(AdapterError, match=re.escape(str(folder))):
        read_adapter(folder)


def test_reading_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    adapter = read_adapter(folder)
    adapter.modules["model.layers.0.self_attn.v_proj"].a.zero_()
    assert (folder / WEIGHTS).read_bytes() == before
    assert load_file(folder / WEIGHTS)[f"{V0}.lora_A.weight"].abs().sum() > 0

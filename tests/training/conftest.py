"""A tiny random Llama with a word-level tokenizer, and role samples that it can learn."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lragent.training import TrainConfig

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}"
    "{% if not loop.last or add_generation_prompt %} <end> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
WORDS = [f"w{i}" for i in range(40)]
SPECIAL = ["<unk>", "<end>", "<system>", "<user>", "<assistant>"]
ROLES = ("plan", "act", "reflect")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small lose far more to threads that wait for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", chat_template=TEMPLATE
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_samples(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Each role repeats, in its own way, a word of the last message."""
    rng = random.Random(seed)
    samples = []
    for number in range(count):
        word = rng.choice(WORDS[:8])
        messages = [
            {"role": "user", "content": " ".join(rng.choices(WORDS, k=rng.randint(2, 12)))},
            {"role": "assistant", "content": f"w30 {word}"},
        ]
        role = ROLES[number % 3]
        output = {"plan": f"w31 {word}", "act": word, "reflect": f"{word} w32 w33"}[role]
        samples.append({"role": role, "input": messages, "output": output})
    return samples


@pytest.fixture
def write_samples(tmp_path: Path) -> Callable[..., Path]:
    def write(samples: list[dict[str, Any]], name: str = "samples.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        return path

    return write


@pytest.fixture
def make_config(
    tiny_model: Path, tmp_path: Path, write_samples: Callable[..., Path]
) -> Callable[..., TrainConfig]:
    """A 20-step run on the tiny model; any setting can be replaced."""

    def make(**settings: Any) -> TrainConfig:
        defaults: dict[str, Any] = {
            "model": str(tiny_model),
            "out": tmp_path / "out",
            "rank": 4,
            "max_steps": 20,
            "batch_size": 4,
            "accumulation": 2,
            "learning_rate": 2e-2,
            "device": "cpu",
        }
        if "data" not in settings:
            defaults["data"] = (write_samples(make_samples(96)),)
        return TrainConfig.model_validate(defaults | settings)

    return make

"""Under `isolated` every family gives what transformers and PEFT give, token for token."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import FAMILIES, generate, prompt_of, tiny_model

from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import UnsupportedModelError

PARAMS = SamplingParams(max_tokens=16, logprobs=0, ignore_eos=True)


def check(engine: Engine, reference, adapters: dict[str, Path], lengths=(1, 133)) -> None:
    for name in (None, *adapters):
        for seed, length in enumerate(lengths):
            prompt = prompt_of(length, seed)
            expected = generate(reference, prompt, 16, adapters[name] if name else None)
            got = engine.generate(prompt, adapter=name, sampling_params=PARAMS)
            assert list(got.token_ids) == expected.tokens, (name, length)
            logprobs = [entry.logprob for entry in got.logprobs]
            assert logprobs == pytest.approx(expected.logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers_and_peft(family: str, tmp_path: Path):
    reference = tiny_model(family)
    adapters = {
        "qv": make_adapter(tmp_path / "qv", reference, rank=4, seed=1),
        "all": make_adapter(
            tmp_path / "all",
            reference,
            rank=3,
            seed=2,
            targets=["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
    }
    with Engine((tiny_model(family), None), adapters, page_size=8) as engine:
        check(engine, reference, adapters)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_key_lora_stays_low_rank_and_exact(family: str, tmp_path: Path):
    reference = tiny_model(family)
    adapters = {
        "kv": make_adapter(
            tmp_path / "kv", reference, rank=4, seed=3, targets=["k_proj", "v_proj"]
        ),
        "k": make_adapter(tmp_path / "k", reference, rank=2, seed=4, targets=["k_proj"]),
    }
    with Engine((tiny_model(family), None), adapters, page_size=8) as engine:
        assert engine.layout.k_rank == 4
        check(engine, reference, adapters, lengths=(50,))


def test_other_families_are_refused_by_name():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=32))
    with pytest.raises(UnsupportedModelError, match=r"'gpt2' are not supported.*llama, mistral"):
        Engine((model, None))

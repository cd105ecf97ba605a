"""aLoRA adapters give what PEFT gives, alone and in a `neutral` group, on one shared context."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import FAMILIES, generate, prompt_of, tiny_model
from transformers import PreTrainedModel

from lragent.adapters import AdapterError, read_adapter
from lragent.engine import Engine, SamplingParams

PARAMS = SamplingParams(max_tokens=8, logprobs=0, ignore_eos=True)
TOKENS = {"check": [5, 6], "judge": [9]}
CONTEXT = prompt_of(70, 1)


def adapters(root: Path, model: PreTrainedModel) -> dict[str, Path]:
    """Two aLoRA adapters on all linear layers, `k_proj` under the key norm of Qwen3 too."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return {
        name: make_adapter(
            root / name,
            model,
            rank=4 + seed,
            seed=seed,
            std=0.1,
            targets=targets,
            alora_invocation_tokens=tokens,
        )
        for seed, (name, tokens) in enumerate(TOKENS.items())
    }


@pytest.mark.parametrize("sharing", ["isolated", "neutral"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_peft(family: str, sharing: str, tmp_path: Path):
    reference = tiny_model(family)
    folders = adapters(tmp_path, reference)
    tail = prompt_of(11, 2)
    with Engine((tiny_model(family), None), folders, sharing, page_size=8) as engine:
        for name, tokens in TOKENS.items():
            for prompt in (
                [*CONTEXT, *tokens, *tail],
                [*tokens, *tail, *tokens],  # the last occurrence counts
                [*tokens, *tail],  # no context at all
                [t for t in CONTEXT if t not in tokens],  # does not act
            ):
                expected = generate(reference, prompt, 8, folders[name])
                got = engine.generate(prompt, adapter=name, sampling_params=PARAMS)
                assert list(got.token_ids) == expected.tokens, (name, prompt)
                logprobs = [entry.logprob for entry in got.logprobs]
                assert logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_two_of_them_and_the_base_model_share_one_context(tmp_path: Path, tiny: PreTrainedModel):
    folders = adapters(tmp_path, tiny)
    context = [t for t in CONTEXT if t not in (5, 6, 9)][:64]
    with Engine((tiny_model(), None), folders, "neutral", page_size=8) as engine:
        assert engine.layout.lr_slot_bytes == 0  # they need no slot
        for place, (name, tokens) in enumerate([(None, []), *TOKENS.items()]):
            got = engine.generate([*context, *tokens, 3], adapter=name, sampling_params=PARAMS)
            assert got.cached_tokens == (64 if place else 0)


@pytest.mark.parametrize("policy", ["base+lr", "base", "full"])
def test_other_groups_refuse_it_with_the_reason(policy: str, tmp_path: Path, tiny: PreTrainedModel):
    folders = adapters(tmp_path, tiny)
    with pytest.raises(AdapterError, match=re.escape(f"'check' cannot share under {policy!r}")):
        Engine((tiny_model(), None), folders, policy)


def test_invocation_tokens_are_part_of_the_identity(tmp_path: Path, tiny: PreTrainedModel):
    digests = {
        read_adapter(
            make_adapter(tmp_path / str(i), tiny, seed=1, alora_invocation_tokens=tokens)
        ).digest
        for i, tokens in enumerate((None, [5], [5, 6]))
    }
    assert len(digests) == 3

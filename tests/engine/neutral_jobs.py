"""Random requests of several agents that build on each other's texts, and what they must answer."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tests.adapters.factory import make_adapter
from tests.engine.models import tiny_model
from tests.engine.neutral_reference import neutral_logprobs
from transformers import PreTrainedModel

from lragent.adapters import Adapter, read_adapter
from lragent.engine import Completion, Engine, SamplingParams

ATOL = 1e-4
"""Log-probabilities in fp32, as between the engine and transformers in `test_isolated_families`."""


ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def mixed_adapters(root: Path, model: PreTrainedModel, std: float = 1.0) -> dict[str, Path]:
    """Adapters of other ranks, targets, scalings and A; `mlp` has none that is cached.

    `std` scales their weights.
    """
    all_linear = [p for p in ALL_LINEAR if p != "k_proj" or model.config.model_type != "qwen3"]
    return {
        "qv": make_adapter(root / "qv", model, rank=4, seed=1, std=0.2 * std),
        "all": make_adapter(
            root / "all",
            model,
            rank=3,
            seed=2,
            targets=all_linear,
            std=0.1 * std,
            rank_pattern={r"layers\.1\..*v_proj": 5},
            alpha_pattern={"q_proj": 4},
        ),
        "rs": make_adapter(
            root / "rs",
            model,
            rank=16,
            seed=3,
            use_rslora=True,
            targets=["v_proj", "o_proj"],
            std=0.1 * std,
        ),
        "mlp": make_adapter(
            root / "mlp", model, rank=2, seed=5, targets=["gate_proj", "down_proj"], std=0.2 * std
        ),
    }


def neutral_engine(adapters: Mapping[str, Path], family: str = "llama", **options: Any) -> Engine:
    """An engine on a tiny model with one `neutral` group of all adapters.

    Its slots are full of NaN: memory may still hold what an engine before it wrote, and be right.
    """
    engine = Engine((tiny_model(family), None), adapters, "neutral", **options)
    for layer in engine._runner.storage.views:
        if layer.lr is not None:
            layer.lr.fill_(torch.nan)
    return engine


@dataclass
class Story:
    """Conversations that agents continue in random order: prompts share prefixes of all lengths."""

    rng: random.Random
    vocab: int
    longest: int
    invocation: Sequence[int] = ()
    texts: list[list[int]] = field(default_factory=lambda: [[]])

    def prompt(self, extra: int) -> list[int]:
        """An earlier text, cut or not, with new tokens; the next prompts may build on it."""
        text = self.rng.choice(self.texts)
        if self.rng.random() < 0.3:
            text = text[: self.rng.randrange(len(text) + 1)]
        prompt = [*text, *(self.rng.randrange(3, self.vocab) for _ in range(1 + extra))]
        if self.invocation and self.rng.random() < 0.5:
            at = self.rng.randrange(len(prompt) + 1)
            prompt[at:at] = self.invocation
        prompt = prompt[: self.longest]
        self.texts.append(prompt)
        return prompt

    def wrote(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """An answer is part of the text from now on."""
        self.texts.append([*prompt, *answer][: self.longest])


class Judge:
    """Compares completions with the dense reference, which knows neither pages nor order."""

    def __init__(self, model: PreTrainedModel, adapters: Mapping[str, Path], atol: float = ATOL):
        self.model = model
        self.atol = atol
        self.adapters = {name: read_adapter(path) for name, path in adapters.items()}

    @torch.inference_mode()
    def check(self, name: str | None, prompt: Sequence[int], got: Completion) -> None:
        """Every token is the reference's likeliest, and has its log-probability."""
        tokens = [*prompt, *got.token_ids][:-1]
        adapter = None if name is None else self.adapters[name]
        context = None if adapter is None else acting_position(adapter, prompt)
        if adapter is None or context is None:
            rows = self.model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        else:
            rows = neutral_logprobs(self.model, adapter, tokens, context)
        rows = rows[len(prompt) - 1 :]
        best, likeliest = rows.max(-1)
        assert list(got.token_ids) == likeliest.tolist(), (name, len(prompt), got.cached_tokens)
        logprobs = torch.tensor([entry.logprob for entry in got.logprobs])
        torch.testing.assert_close(logprobs, best, atol=self.atol, rtol=0)


def acting_position(adapter: Adapter, prompt: Sequence[int]) -> int | None:
    """Where the adapter begins to act, as PEFT says it of aLoRA; None where it does not."""
    wanted = list(adapter.acting_tokens or ())
    found = [i for i in range(len(prompt)) if list(prompt[i : i + len(wanted)]) == wanted]
    if wanted and found:
        return found[-1]
    return None if adapter.is_alora else len(prompt) - 1


def tell(
    engine: Engine, names: Sequence[str | None], story: Story, rounds: int, judge: Judge
) -> list[tuple[str | None, list[int], Completion]]:
    """Run `rounds` of two to eight requests at once, each checked; returns all of them."""
    done = []
    for _ in range(rounds):
        batch = []
        for _ in range(story.rng.randint(2, 8)):
            name, prompt = story.rng.choice(names), story.prompt(story.rng.randrange(30))
            params = SamplingParams(
                max_tokens=story.rng.randint(1, 20), logprobs=0, ignore_eos=True
            )
            batch.append(
                (name, prompt, engine.submit(prompt, adapter=name, sampling_params=params))
            )
        for name, prompt, request in batch:
            got = request.result()
            judge.check(name, prompt, got)
            story.wrote(prompt, got.token_ids)
            done.append((name, prompt, got))
    engine.check_integrity()
    return done

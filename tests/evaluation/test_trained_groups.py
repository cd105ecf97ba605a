"""Two groups trained on the same samples, one for `isolated` and one for `neutral`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.engine.models import SIZES, prompt_of, tiny_model
from tests.engine.tokenizer import word_tokenizer

from lragent.evaluation.config import EvalConfig, Limit
from lragent.evaluation.inputs import read_inputs
from lragent.evaluation.run import Evaluation, evaluate
from lragent.evaluation.verdict import Outcome
from lragent.sharing import Policy
from lragent.training import TrainConfig, TrainedFor, train

ROLES = ("one", "two")
WORDS = {"one": [10, 20, 30, 40], "two": [50, 60, 70, 80]}
TOKENIZER = word_tokenizer(SIZES["vocab_size"])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    tiny_model().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def write_samples(path: Path, seeds: range) -> Path:
    """Each role says its four words in turn; the last word of the input says which comes first."""
    lines = []
    for seed in seeds:
        ids = prompt_of(40 + seed % 20, seed)
        for role, words in WORDS.items():
            first = ids[-1] % 4
            output = TOKENIZER.decode(words[first:] + words[:first])
            lines.append(
                json.dumps({"role": role, "input": TOKENIZER.decode(ids), "output": output})
            )
    path.write_text("\n".join(lines))
    return path


def evaluated(model_folder: Path, trained_for: TrainedFor, folder: Path) -> Evaluation:
    """Train the group, and judge it on samples that training has not seen."""
    data = write_samples(folder / "train.jsonl", range(400))
    train(
        TrainConfig(
            data=(data,), model=str(model_folder), out=folder / "adapters", roles=ROLES,
            trained_for=trained_for, max_steps=120, batch_size=16, accumulation=1,
            learning_rate=1e-2, dropout=0, device="cpu",
        ),
        show_progress=False,
    )  # fmt: skip
    config = EvalConfig(
        model=str(model_folder), adapters={role: folder / "adapters" / role for role in ROLES},
        per_role=16, hand_overs=(1,), per_hand_over=1, limit=Limit(nll_ratio=1.1), device="cpu",
        kv_bytes=8 << 20,
    )  # fmt: skip
    held_out = write_samples(folder / "test.jsonl", range(1000, 1016))
    return evaluate(config, read_inputs([held_out], [], [], ROLES), folder / "out")


def test_the_ordinary_group_is_not_to_share(model_folder: Path, tmp_path: Path) -> None:
    found = evaluated(model_folder, TrainedFor.ISOLATED, tmp_path)
    assert found.verdict is not None
    assert found.verdict.policy is Policy.ISOLATED
    outcomes = {(f.policy, f.role): f.outcome for f in found.verdict.findings}
    assert outcomes[Policy.NEUTRAL, "two"] is Outcome.EXCEEDS
    assert found.verdict.advice[0].startswith("Train one, two for neutral")


def test_the_group_trained_for_neutral_shares_under_it(model_folder: Path, tmp_path: Path) -> None:
    found = evaluated(model_folder, TrainedFor.NEUTRAL, tmp_path)
    assert found.verdict is not None
    assert found.verdict.policy is Policy.NEUTRAL
    assert {f.outcome for f in found.verdict.findings if f.policy is Policy.FULL} == {
        Outcome.EXCEEDS
    }
    kept = {c.role: c.recovery for c in found.readers if c.policy == "neutral"}
    for role in ROLES:
        recovery = kept[role]
        assert recovery is not None
        assert recovery.low > 0.95

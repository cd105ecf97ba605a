"""The benchmark of answers, on a tiny model: what it scores, writes and continues."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.answers import HELD_OUT, TRAIN, run
from benchmarks.answers.samples import make
from benchmarks.answers.score import Condition, Scorer
from tests.agents.trajectories import hotpot
from tests.training.conftest import ROLES, make_samples
from transformers import AutoModelForCausalLM

from lragent.adapters import read_adapter
from lragent.evaluation.cases import Case, Reading, Series
from lragent.evaluation.meter import Meter
from lragent.evaluation.samples import EvalSample
from lragent.sharing import Policy
from lragent.training.encoding import encode_all
from lragent.training.samples import Sample


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    for name, seed in ((TRAIN, 0), (HELD_OUT, 1)):
        with gzip.open(tmp_path / name, "wt") as file:
            file.writelines(json.dumps(sample) + "\n" for sample in make_samples(48, seed))
    return tmp_path


def command(samples: Path, model: Path, out: Path) -> list[str]:
    words = ["--samples", samples, "--model", model, "--out", out, "--adapters", samples / "kept"]
    words += ["--rank", 4, "--steps", 15, "--batch-size", 4, "--learning-rate", 0.02]
    return [*map(str, words), "--held-out", "6", "--device", "cpu"]


def test_arms_are_scored_under_every_policy_and_not_made_again(
    samples: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results" / "answers.json"
    words = command(samples, tiny_model, out)
    run.main([*words, "--arms", "neutral"])
    run.main([*words, "--arms", "base+lr-random"])

    entries = json.loads(out.read_text())["entries"]
    assert [entry["settings"]["arm"] for entry in entries] == ["neutral", "base+lr-random"]
    for entry in entries:
        joint = entry["settings"]["arm"] == "base+lr-random"
        assert len(entry["training"]["plan"]["losses"]) == (45 if joint else 15)
        assert list(entry["scores"]) == list(ROLES)
        assert list(entry["scores"]["plan"]) == [
            "isolated",
            "neutral",
            "base+lr, read by act",
            "base+lr, read by reflect",
            "full, read by act",
            "full, read by reflect",
        ]
        scores = [score for role in entry["scores"].values() for score in role.values()]
        assert all(score["samples"] == 6 and 0 <= score["exact"] <= 100 for score in scores)
        assert len({score["nll"] for score in scores}) > 9

    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("made again"))
    run.main([*words, "--arms", "neutral,base+lr-random"])


def test_roles_trained_from_a_cue_are_scored_as_the_engine_serves_them(
    samples: Path, tiny_model: Path, tmp_path: Path, tokenizer: Any
) -> None:
    """All linear layers, rank 16; the prompts end in w30 and one more word."""
    out = tmp_path / "answers.json"
    words = [*command(samples, tiny_model, out), "--arms", "neutral-cue", "--cue", "w30"]
    run.main([*words, "--rank", "16", "--targets", "all-linear"])

    [entry] = json.loads(out.read_text())["entries"]
    assert entry["settings"]["cue"] == "w30"
    adapters = {
        role: samples / "kept" / "neutral-cue-r16-all-linear-seed0" / role for role in ROLES
    }
    for path in adapters.values():
        adapter = read_adapter(path)
        assert adapter.acting_tokens == (tokenizer.convert_tokens_to_ids("w30"),)
        assert {module.rank for module in adapter.modules.values()} == {16}
        assert len(adapter.modules) == 2 * 7
    held = run.held_out({"held_out": 6, "max_length": 100}, samples, tokenizer)
    with Meter(str(tiny_model), adapters, [Policy.NEUTRAL], device="cpu") as meter:
        for role, examples in held.items():
            of_role = entry["scores"][role]
            nll, prompt_tokens = 0.0, 0
            for number, example in enumerate(examples):
                context, output = example.ids[: -example.learnt], example.ids[-example.learnt :]
                sample = EvalSample(str(number), role, tuple(context), tuple(output))
                arms = meter.measure(Case(Series.READER, sample, (Reading(("plan",)),)))
                nll += next(arm.nll for arm in arms if arm.policy == "neutral")
                prompt_tokens += len(context)
            scored = of_role["neutral"]["nll"] * of_role["neutral"]["tokens"]
            assert nll == pytest.approx(scored, rel=1e-4)
            assert of_role["neutral"]["own_prompt_tokens"] == 2
            assert of_role["isolated"]["own_prompt_tokens"] == prompt_tokens / 6
            assert of_role["neutral"]["nll"] != pytest.approx(of_role["isolated"]["nll"], rel=1e-2)


def test_a_score_is_that_of_each_sample_alone(
    samples: Path, tiny_model: Path, tmp_path: Path, tokenizer: Any
) -> None:
    run.main([*command(samples, tiny_model, tmp_path / "a.json"), "--arms", "isolated"])
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    folder = samples / "kept" / "isolated-r4-seed0"
    own = [Sample.model_validate(s) for s in make_samples(60, 2) if s["role"] == "act"]
    examples, _ = encode_all(own, tokenizer, 100)
    scorer = Scorer(base, folder, ROLES)
    found = scorer.score("act", Condition("isolated"), examples, batch=8)

    nll, exact = 0.0, 0
    for example in examples:
        ids = torch.tensor([example.ids])
        chances = scorer._model(ids).logits[0, -example.learnt - 1 : -1].log_softmax(-1)
        wanted = ids[0, -example.learnt :]
        nll -= chances.gather(1, wanted[:, None]).sum().item()
        exact += bool((chances.argmax(-1) == wanted).all())
    assert found["nll"] == pytest.approx(nll / sum(e.learnt for e in examples), rel=1e-5)
    assert found["exact"] == pytest.approx(100 * exact / len(examples))


def test_held_out_samples_come_from_the_other_file(tmp_path: Path) -> None:
    hotpot.write(tmp_path, [hotpot.BRIDGE])
    with gzip.open(tmp_path / "hotpotqa_dev.jsonl.gz", "wt") as file:
        held = {**hotpot.COMPARISON, "split": "dev"}
        file.write(json.dumps(held, separators=(",", ":")) + "\n")
    make(tmp_path, tmp_path / "out")

    files = [tmp_path / "out" / name for name in (TRAIN, HELD_OUT)]
    texts = [gzip.decompress(file.read_bytes()).decode() for file in files]
    assert hotpot.BRIDGE["question"] in texts[0]
    assert hotpot.COMPARISON["question"] not in texts[0]
    assert hotpot.COMPARISON["question"] in texts[1]


def test_an_unknown_arm_is_refused(
    samples: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run.main([*command(samples, tiny_model, samples / "a.json"), "--arms", "neutrl"])
    assert "no such arm: neutrl" in capsys.readouterr().err

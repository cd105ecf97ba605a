from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.agents.trajectories import hotpot

from lragent.agents.prompts import SYSTEM_PROMPT
from lragent.agents.trajectories import BuildReport, build_samples

Sample = dict[str, Any]


def build(tmp_path: Path, *records: Sample, **options: Any) -> tuple[list[Sample], BuildReport]:
    folder = hotpot.write(tmp_path, list(records))
    report = build_samples(folder, tmp_path / "samples.jsonl", **{"arithmetic": 0, **options})
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], report


def text(sample: Sample) -> str:
    """The whole assistant text that a sample teaches."""
    return sample["input"][-1]["content"] + sample["output"]


def longest(samples: list[Sample]) -> str:
    return max((text(sample) for sample in samples), key=len)


def test_bridge_with_a_right_answer(tmp_path: Path):
    samples, report = build(tmp_path, hotpot.BRIDGE, wrong_share=0)
    lines = longest(samples).split("\n")
    assert lines[0].endswith("I need to find Stone Bridge.")
    assert lines[1] == "Action 1: Retrieve[Stone Bridge]"
    seen = "The Stone Bridge lies in Alba. Marta Quill designed it in 1880."
    assert lines[2] == f"Observation 1: Stone Bridge: {seen}"
    assert lines[3].startswith("Thought 2: Marta Quill designed it in 1880. ")
    assert lines[4] == "Action 2: Retrieve[Marta Quill]"
    assert lines[6].endswith("he answer is Norvick.")
    assert lines[7] == "Action 3: Finish[Norvick]"
    assert lines[8].endswith("The answer should be Norvick. It is Norvick.")
    assert lines[9] == "Action 4: Reflect[right]"
    assert report.trajectories == {"bridge": 1}
    assert report.samples == {"plan": 3, "act": 3, "reflect": 1}


def test_wrong_answers_are_judged_and_put_right_but_not_taught(tmp_path: Path):
    samples, _ = build(tmp_path, hotpot.BRIDGE, hotpot.COMPARISON, hotpot.YES_NO, wrong_share=1)
    verdicts = Counter(s["output"].rsplit("[")[-1] for s in samples if s["role"] == "reflect")
    assert verdicts["wrong]"] == 3
    gold = {"Norvick", "Alba", "yes"}
    finishes = [s for s in samples if s["role"] == "act" and "Finish[" in text(s).split("\n")[-1]]
    assert {s["output"].rstrip("]") for s in finishes} == gold
    for sample in samples:
        if sample["output"].endswith("Reflect[wrong]"):
            given = text(sample).rsplit("Finish[", 1)[1].split("]")[0]
            assert f"It is {given}." in sample["output"]
            assert given not in gold - {"Alba"}
            assert given in text(sample).split("Finish[")[0] or given == "no"


def test_comparison_reads_both_pages(tmp_path: Path):
    samples, _ = build(tmp_path, hotpot.COMPARISON, wrong_share=0)
    whole = longest(samples)
    assert "Thought 1: I need to compare Alba and Kelm. First I need to find Alba." in whole
    assert "Action 2: Retrieve[Kelm]" in whole
    assert "It was founded in 1204. It was founded in 1310. So the answer is Alba." in whole


def test_lookup_where_the_answer_is_further_down(tmp_path: Path):
    samples, _ = build(tmp_path, hotpot.LOOKUP, wrong_share=0)
    whole = longest(samples)
    assert "Action 3: Lookup[sculptor]" in whole
    assert "Observation 3: Its lions were drawn by the sculptor Ida Holm." in whole
    assert "Action 4: Finish[Ida Holm]" in whole


def test_arithmetic(tmp_path: Path):
    samples, report = build(tmp_path, hotpot.YES_NO, arithmetic=5, wrong_share=0)
    assert report.trajectories == {"comparison": 1}
    dated = {
        **hotpot.YES_NO,
        "context": [
            ["Alba", ["Alba is a town founded in 1504."]],
            ["Kelm", ["Kelm is a town founded in 1610."]],
        ],
    }
    samples, report = build(tmp_path, dated, arithmetic=5, wrong_share=0)
    assert report.trajectories == {"comparison": 1, "arithmetic": 1}
    whole = next(
        text(s) for s in samples if s["output"].endswith("Reflect[right]") and "106" in text(s)
    )
    assert "Action 3: Calculate[1610 - 1504]\nObservation 3: 106\n" in whole
    assert "Action 4: Finish[106]" in whole


def test_form_of_the_samples(tmp_path: Path):
    samples, _ = build(tmp_path, *hotpot.ALL, arithmetic=3)
    ends = {"plan": "[", "act": "]", "reflect": "]"}
    for sample in samples:
        assert set(sample) == {"role", "input", "output"}
        assert [m["role"] for m in sample["input"]] == ["system", "user", "assistant"]
        assert sample["input"][0]["content"] == SYSTEM_PROMPT
        assert sample["input"][1]["content"].startswith("Question: ")
        before = sample["input"][2]["content"]
        assert before[-1] == ("[" if sample["role"] == "act" else ":")
        assert sample["output"].endswith(ends[sample["role"]])
        assert sample["output"].startswith(" ") == (sample["role"] != "act")
        assert ".." not in text(sample).replace(" ...", "")


def test_each_sample_extends_the_one_before_in_its_trajectory(tmp_path: Path):
    samples, _ = build(tmp_path, hotpot.BRIDGE, wrong_share=1)
    ordered = sorted(samples, key=lambda s: len(s["input"][-1]["content"]))
    for before, after in itertools.pairwise(ordered):
        assert after["input"][-1]["content"].startswith(text(before))


def test_same_seed_same_bytes(tmp_path: Path):
    first, _ = build(tmp_path, *hotpot.ALL, arithmetic=3)
    again, _ = build(tmp_path, *hotpot.ALL, arithmetic=3)
    other, _ = build(tmp_path, *hotpot.ALL, arithmetic=3, seed=1)
    assert first == again
    assert first != other


def test_token_budget_holds_for_each_role(tmp_path: Path):
    _, whole = build(tmp_path, *hotpot.ALL)
    samples, cut = build(tmp_path, *hotpot.ALL, max_tokens_per_role=900)
    for role in ("plan", "act", "reflect"):
        assert whole.tokens[role] > 900 >= cut.tokens[role] > 0
        assert cut.samples[role] == sum(s["role"] == role for s in samples)


def test_records_that_cannot_be_played_are_counted(tmp_path: Path):
    lost = {**hotpot.BRIDGE, "answer": "Brellin"}
    samples, report = build(tmp_path, lost)
    assert samples == []
    assert report.unused_records == 1

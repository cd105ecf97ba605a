"""Train two roles for `neutral`, then let them share one cache.

python examples/train_and_share.py MODEL OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from questions import questions

from lragent import Engine, SamplingParams
from lragent.training import TrainConfig, train

model, out = sys.argv[1], Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)

# One role names the last thing on a list, the other the first.
lines = []
for sample in questions(80):
    things = sample["prompt"].partition("List: ")[2].partition(".")[0]
    listed, first = f"List: {things}. ", things.partition(",")[0]
    lines.append({"role": "last", "input": f"{listed}Last:", "output": sample["completion"]})
    lines.append({"role": "first", "input": f"{listed}First:", "output": f" {first}"})
data = out / "samples.jsonl"
data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

config = TrainConfig(
    data=(data,), model=model, out=out / "adapters", roles=("last", "first"), max_steps=20,
    batch_size=4, accumulation=2, learning_rate=1e-3, device="cpu",
)  # fmt: skip
report = train(config, show_progress=False)
folders = {Path(role.folder).name: role.folder for role in report.roles}

listed = "List: " + ", ".join(["apple", "bridge", "cloud", "drum"] * 12) + "."
with Engine(model, adapters=folders, sharing="neutral") as engine:
    params = SamplingParams(max_tokens=4)
    for role in folders:
        answer = engine.generate(f"{listed} {role.title()}:", params, adapter=role)
        again = engine.generate(f"{listed} {role.title()}:", params, adapter=role)
        assert again.text == answer.text, "a cached answer equals an uncached one"
        print(f"{role}: {answer.text!r}, {answer.cached_tokens} tokens reused")

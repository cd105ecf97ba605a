"""Adapters that exist already, on one cache: what a hand-over reuses, and what it saves.

python examples/existing_adapters.py MODEL PLAN ACT      (a base model and two PEFT folders)
"""

from __future__ import annotations

import sys

from lragent import Engine, SamplingParams

model, plan, act = sys.argv[1:]
document = "The harbour was opened in 1873 and has eleven berths. " * 30
params = SamplingParams(max_tokens=16)

for sharing in ("isolated", "base+lr"):
    with Engine(model, adapters={"plan": plan, "act": act}, sharing=sharing) as engine:
        said = document + "\nplan:"
        first = engine.generate(said, params, adapter="plan")
        said += first.text + "\nact:"
        second = engine.generate(said, params, adapter="act")
        print(
            f"{sharing}: act reused {second.cached_tokens} of {second.prompt_tokens} tokens; first "
            f"token after {second.ttft_s or 0:.3f} s, plan's after {first.ttft_s or 0:.3f} s"
        )
print("What this does to answers: lragent eval")

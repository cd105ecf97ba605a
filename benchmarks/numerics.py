"""Measure what each policy does to keys and values, and write benchmarks/results/numerics.json.

    python -m benchmarks.numerics --commit "$(git rev-parse HEAD)"

Under every policy an agent (``act``) reads a context that another one (``plan``) has read before
it. What attention then sees of the context, keys and values with the agent's own term, is compared
layer by layer with what transformers and PEFT compute when that agent reads it all: the norm of the
difference over the norm, in fp32 on the CPU. `isolated` shows what rounding is. Under ``neutral``
the base model reads the context, so what the agent sees there is compared with what it sees when it
comes first, too (``neutral, alone``).

`tests/proof/test_numerics.py` holds that the errors do not grow.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks.common.files import RESULTS
from peft import PeftModel
from tests.adapters.factory import make_adapter
from tests.engine.models import prompt_of, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from lragent import Engine, SamplingParams
from lragent.agents.demo import demo_adapters, demo_text
from lragent.engine.loader import load_model
from lragent.sharing import Policy, SharingGroup

FILE = RESULTS / "numerics.json"
PARAMS = SamplingParams(max_tokens=2, ignore_eos=True)
CONTEXT = 32
Layers = list[dict[str, Tensor]]
Errors = dict[str, dict[str, list[float]]]


def tiny(folder: Path) -> Errors:
    """Of the tests' Llama with three layers, and adapters of its kind."""
    model = tiny_model()
    plan = make_adapter(folder / "plan", model, rank=4, seed=1)
    act = make_adapter(folder / "act", model, rank=4, seed=2, share_a_with=plan)
    prompt = prompt_of(CONTEXT + 1)
    truth = recomputed(model, act, prompt)
    return errors(tiny_model(), {"plan": plan, "act": act}, prompt, truth)


def smollm2() -> Errors:
    """Of SmolLM2-135M-Instruct and the bundled adapters, on running text."""
    adapters = {name: path for name, path in demo_adapters().items() if name in ("plan", "act")}
    model, tokenizer = load_model("smollm2")
    ids = tokenizer(demo_text())["input_ids"]
    assert isinstance(ids, list)
    prompt = ids[: CONTEXT + 1]
    truth = recomputed(model, adapters["act"], prompt)
    return errors(model, adapters, prompt, truth)


@torch.inference_mode()
def recomputed(model: PreTrainedModel, adapter: Path, prompt: list[int]) -> Layers:
    """What transformers caches of the context when the adapter reads it; the model stays as is."""
    peft = PeftModel.from_pretrained(model, str(adapter)).eval()
    cache: Any = peft(input_ids=torch.tensor([prompt]), use_cache=True).past_key_values
    peft.unload()
    return [
        {"k": rows(layer.keys[0].transpose(0, 1)), "v": rows(layer.values[0].transpose(0, 1))}
        for layer in cache.layers
    ]


def rows(tokens: Tensor) -> Tensor:
    """Those of the context, `[CONTEXT, kv_heads * head_dim]`, of `[T, kv_heads, head_dim]`."""
    return tokens[:CONTEXT].flatten(1).clone()


def errors(
    model: PreTrainedModel, adapters: Mapping[str, Path], prompt: list[int], truth: Layers
) -> Errors:
    """By policy, and by ``k`` and ``v``, the error of each layer."""
    named = {f"{p.value}/{n}": path for p in Policy for n, path in adapters.items()}
    groups = [SharingGroup(p.value, [f"{p.value}/{n}" for n in adapters], p) for p in Policy]
    with Engine((model, None), named, groups, device="cpu", dtype=torch.float32) as engine:
        found = {}
        for policy in Policy:
            engine.generate(prompt, adapter=f"{policy.value}/plan", sampling_params=PARAMS)
            found[policy.value] = between(seen(engine, f"{policy.value}/act", prompt), truth)
        after, alone = (seen(engine, "neutral/act", prompt, salt) for salt in ("", "apart"))
        found["neutral, alone"] = between(after, alone)
    return found


def seen(engine: Engine, name: str, prompt: list[int], salt: str = "") -> Layers:
    """Keys and values of the context in each layer, as an adapter's queries read them."""
    request = engine.submit(prompt, adapter=name, sampling_params=PARAMS, cache_salt=salt)
    while not request.token_ids:
        engine.step()
    state = request._state
    assert state.lease is not None
    pages, binding, layers = state.lease.pages, state.binding, []
    for layer, views in enumerate(engine._runner.storage.views):
        k, v = (rows(x[pages].transpose(1, 2).flatten(0, 1)) for x in (views.k, views.v))
        table = engine._runner._cache.tables[layer].v_b
        if binding.slot is not None and table is not None and views.lr is not None:
            z = rows(views.lr[pages, :, binding.slot].flatten(0, 1))[:, : table.shape[1]]
            v = v + z @ table[engine._runner.bank.index(binding.adapter)]
        layers.append({"k": k, "v": v})
    request.cancel()
    return layers


def between(found: Layers, truth: Layers) -> dict[str, list[float]]:
    """Norm of the difference over the norm, layer by layer."""
    return {
        part: [
            ((a[part] - b[part]).norm() / b[part].norm()).item()
            for a, b in zip(found, truth, strict=True)
        ]
        for part in ("k", "v")
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {"tiny": tiny(Path(folder)), "smollm2": smollm2()}
    result = {
        "commit": options.commit,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "context": CONTEXT,
        "relative_errors_by_layer": models,
    }
    FILE.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

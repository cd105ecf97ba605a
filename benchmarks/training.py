r"""Measure what a training step for `neutral` costs next to an ordinary one.

    python -m benchmarks.training --out benchmarks/results/training-cpu.json
    python -m benchmarks.training --model Llama-3.2-1B --rows 8 --context 1500 --turn 100 \
        --out benchmarks/results/training-h200-1b.json

Where `--model` is the name of a shape, such as ``Llama-3.2-1B``, the model has random weights. All
arms have the same model, batch and adapter; a step is forward, backward and optimiser step. Each
arm runs in a process of its own, so that its peak memory is its own, and the arms take turns, so
that what else the machine does meets all of them alike. Memory is counted from after loading to the
peak.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import shapes
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM

from lragent.engine.loader import load_model
from lragent.training.encoding import Example, collate
from lragent.training.lora import checkpoint_activations
from lragent.training.norms import fuse_norms
from lragent.training.served import ServedForward
from lragent.training.trainer import output_loss
from lragent.training.turns import Turns

ARMS = ("isolated", "neutral", "isolated, checkpointing", "neutral, checkpointing")


def measure(arm: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step but the first, and peak bytes above the loaded model."""
    device = torch.device(settings["device"])
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    base, vocab = base_model(settings, dtype, device)
    if cuda:
        fuse_norms(base)
    if "checkpointing" in arm:
        checkpoint_activations(base)
    lora = LoraConfig(r=settings["rank"], target_modules=settings["targets"], task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model = get_peft_model(base, lora).train()
    served = ServedForward(model)
    served.isolated = arm.startswith("isolated")
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = not cuda  # autocast does it, as in `RoleTrainer`
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    length = settings["context"] + settings["turn"]
    ids = torch.randint(10, vocab, (settings["rows"], length)).tolist()
    before = memory(cuda)
    seconds = []
    for _ in range(settings["steps"] + 1):
        inputs = collate([Example("any", row, settings["turn"]) for row in ids])
        labels = inputs["labels"].to(device)
        start = time.perf_counter()
        served.turns = Turns.of(labels)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            outputs = model(
                input_ids=inputs["input_ids"].to(device), logits_to_keep=inputs["logits_to_keep"]
            )
            loss = output_loss(outputs, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:], "bytes": memory(cuda) - before}


def base_model(
    settings: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> tuple[Any, int]:
    """The model that is trained, and how many tokens it knows."""
    shape = shapes.NAMED.get(settings["model"])
    if shape is None:
        model, tokenizer = load_model(settings["model"], dtype=dtype, device=device)
        return model, len(tokenizer)
    config = LlamaConfig(**shapes.config_of(shape))
    torch.manual_seed(0)
    with device:
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    return model.eval(), shape.vocab


def memory(cuda: bool) -> int:
    """Peak bytes so far: of tensors on a GPU, of the process on a CPU."""
    if cuda:
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure a training step for neutral.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--model", default="smollm2", help=f"a model, or a shape: {', '.join(shapes.NAMED)}"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--context", type=int, default=448)
    parser.add_argument("--turn", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", default="q_proj,v_proj")
    parser.add_argument("--steps", type=int, default=3, help="of each arm in each round")
    parser.add_argument("--rounds", type=int, default=3)
    settings = vars(parser.parse_args())
    out = settings.pop("out")
    settings["targets"] = settings["targets"].split(",")
    found: dict[str, dict[str, list[float]]] = {arm: {"seconds": [], "bytes": []} for arm in ARMS}
    for _ in range(settings["rounds"]):
        for arm in ARMS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                measured = pool.apply(measure, (arm, settings))
            found[arm]["seconds"] += measured["seconds"]
            found[arm]["bytes"].append(measured["bytes"])
    middle = {
        arm: {name: statistics.median(values) for name, values in measured.items()}
        for arm, measured in found.items()
    }
    ratios = {
        neutral: {name: middle[neutral][name] / middle[plain][name] for name in middle[plain]}
        for plain, neutral in (ARMS[:2], ARMS[2:])
    }
    result = {
        "settings": settings,
        "device": torch.cuda.get_device_name()
        if settings["device"] != "cpu"
        else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "arms": found,
        "neutral divided by isolated": ratios,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()

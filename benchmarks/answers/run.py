r"""Train roles for each policy and score them under each; results go to one JSON file.

    python -m benchmarks.answers.samples --data FOLDER --out build/answers
    answers="python -m benchmarks.answers.run --samples build/answers \
        --out benchmarks/results/answers.json --seeds 0,1,2"

    $answers --arms isolated        # trained and served alone, which the others are compared with
    $answers --arms neutral         # acting from the prompt's last token
    $answers --arms neutral-cue     # from the prompt's last line: "Thought 3:", "Action 3: Finish["
    $answers --arms neutral-cue --cue $'\nObservation'     # from the last page that was found
    $answers --arms neutral-header  # from the header of the assistant's message
    $answers --arms base+lr         # on contexts that plan has read
    $answers --arms base+lr-random  # on contexts that a random member has read
    $answers --arms isolated,neutral,neutral-cue --rank 16
    $answers --arms isolated,neutral,neutral-cue --targets all-linear
    $answers --arms isolated,neutral,neutral-cue --targets all-linear --rank 16

An arm is a way to train; `-joint` trains the roles together, `-own-a` gives each its own A. The cue
is the same for all roles, a line break: the prompts of each of them end in the line that it is to
continue. Each arm and seed is one entry in the result file, written as soon as it is scored, and
what is there already is not made again; so the work can be divided among calls, also at the same
time. Every arm sees the same samples in the same order for the same number of steps. Each score
says how many prompt tokens the role computes itself, `own_prompt_tokens`: the private ones.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from benchmarks.answers import HELD_OUT, ROLES, TRAIN
from benchmarks.answers.score import Scorer, conditions
from benchmarks.common.files import load, save
from filelock import FileLock

from lragent.engine.loader import load_model
from lragent.training import TrainConfig, train
from lragent.training.encoding import Example, encode_all
from lragent.training.samples import read_samples

ARMS: dict[str, dict[str, Any]] = {
    "isolated": {"trained_for": "isolated"},
    "neutral": {"trained_for": "neutral"},
    "neutral-header": {"trained_for": "neutral", "acting_text": "<|im_start|>assistant"},
    "neutral-cue": {"trained_for": "neutral"},  # and the text that --cue gives
    "base+lr": {"trained_for": "base+lr"},
    "isolated-joint": {"trained_for": "isolated", "mode": "joint"},
    "neutral-joint": {"trained_for": "neutral", "mode": "joint"},
    "base+lr-random": {"trained_for": "base+lr", "mode": "joint", "readers": "random"},
    "isolated-own-a": {"trained_for": "isolated", "mode": "separate"},
    "neutral-own-a": {"trained_for": "neutral", "mode": "separate"},
}
TARGETS = "q_proj,v_proj"
ALL_LINEAR = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


def settings(arguments: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """What decides an entry of the result file."""
    targets = ALL_LINEAR if arguments.targets == "all-linear" else arguments.targets
    cue = {"cue": arguments.cue} if arm == "neutral-cue" else {}
    return {
        "arm": arm,
        "seed": seed,
        "model": arguments.model,
        "rank": arguments.rank,
        "alpha": 2 * arguments.rank,
        "targets": targets.split(","),
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "held_out": arguments.held_out,
        "max_length": arguments.max_length,
        **cue,
    }


def train_arm(
    wanted: Mapping[str, Any], samples: Path, folder: Path, device: str
) -> dict[str, dict[str, Any]]:
    """Train the roles into `folder`; returns each role's losses and seconds."""
    arm = ARMS[wanted["arm"]]
    together = len(ROLES) if arm.get("mode") == "joint" else 1
    config = TrainConfig.model_validate(
        {
            "data": (samples / TRAIN,),
            "model": wanted["model"],
            "out": folder,
            "roles": ROLES,
            "rank": wanted["rank"],
            "alpha": wanted["alpha"],
            "dropout": 0.0,
            "targets": wanted["targets"],
            "max_steps": wanted["steps"] * together,
            "batch_size": wanted["batch_size"],
            "accumulation": 1,
            "learning_rate": wanted["learning_rate"],
            "max_length": wanted["max_length"],
            "checkpoint_every": 10**6,
            "seed": wanted["seed"],
            "device": device,
            "acting_text": wanted.get("cue", ""),
            **arm,
        }
    )
    report = train(config, show_progress=False)
    return {
        trained.result.role: {
            "seconds": trained.result.seconds,
            "losses": [round(loss, 4) for loss in trained.result.losses],
        }
        for trained in report.roles
    }


def held_out(wanted: Mapping[str, Any], samples: Path, tokenizer: Any) -> dict[str, list[Example]]:
    """The same samples for every arm and seed, as many of each role."""
    by_role, _ = read_samples([samples / HELD_OUT], ROLES)
    found = {}
    for role, own in by_role.items():
        chosen = random.Random(1).sample(own, min(len(own), 2 * wanted["held_out"]))
        examples, _ = encode_all(chosen, tokenizer, wanted["max_length"])
        found[role] = examples[: wanted["held_out"]]
    return found


def measure(wanted: Mapping[str, Any], arguments: argparse.Namespace, folder: Path) -> Any:
    """Train and score one arm with one seed."""
    start = time.monotonic()
    trained = train_arm(wanted, arguments.samples, folder, arguments.device)
    between = time.monotonic()
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    base, tokenizer = load_model(wanted["model"], dtype=dtype, device=device)
    examples = held_out(wanted, arguments.samples, tokenizer)
    scorer = Scorer(base, folder, ROLES)
    scores = {
        role: {
            str(condition): scorer.score(role, condition, examples[role], arguments.batch_size)
            for condition in conditions(role, ROLES)
        }
        for role in ROLES
    }
    return {
        "settings": wanted,
        "training": trained,
        "scores": scores,
        "seconds": {
            "training": round(between - start, 1),
            "scoring": round(time.monotonic() - between, 1),
        },
        "device": torch.cuda.get_device_name() if device != "cpu" else platform.machine(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "peft")},
        },
        "commit": arguments.commit,
    }


def find(results: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]) -> bool:
    """Whether an entry with these settings is there."""
    return any(entry["settings"] == wanted for entry in results)


def read(out: Path) -> list[dict[str, Any]]:
    """The entries of a result file; none where there is no file."""
    return load(out)["entries"] if out.is_file() else []


def add(out: Path, entry: Mapping[str, Any]) -> None:
    """Put an entry into the result file, which other processes may write too."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_suffix(".lock")):
        save(out, {"entries": [*read(out), entry]})


def main(words: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train roles for each policy; score them.")
    parser.add_argument("--samples", type=Path, required=True, help="folder of the samples")
    parser.add_argument("--out", type=Path, required=True, help="result file to write or continue")
    parser.add_argument("--adapters", type=Path, help="keep the adapters in this folder")
    parser.add_argument("--arms", default="isolated,neutral", help=", ".join(ARMS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", default=TARGETS, help="or all-linear")
    parser.add_argument("--cue", default="\n", help="acting text of neutral-cue")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each role")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--max-length", type=int, default=1600)
    parser.add_argument("--held-out", type=int, default=600, help="samples of each role")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--commit", default="", help="of the sources, for the result file")
    arguments = parser.parse_args(words)
    arms = arguments.arms.split(",")
    if unknown := set(arms) - set(ARMS):
        parser.error(f"no such arm: {', '.join(sorted(unknown))}; there are {', '.join(ARMS)}")
    for seed in map(int, arguments.seeds.split(",")):
        for arm in arms:
            wanted = settings(arguments, arm, seed)
            if find(read(arguments.out), wanted):
                continue
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "adapters"
                entry = measure(wanted, arguments, folder)
                if arguments.adapters is not None:
                    which = "" if arguments.targets == TARGETS else f"-{arguments.targets}"
                    name = f"{arm}-r{arguments.rank}{which}-seed{seed}"
                    kept = arguments.adapters / name
                    shutil.copytree(folder, kept, dirs_exist_ok=True)
            add(arguments.out, entry)
            print(f"{arm}, seed {seed}: {entry['seconds']}", flush=True)
            for role, scores in entry["scores"].items():
                for condition, score in scores.items():
                    print(
                        f"  {role:8} {condition:24} exact {score['exact']:5.1f} %, "
                        f"NLL {score['nll']:.3f}, "
                        f"own prompt tokens {score['own_prompt_tokens']:.1f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()

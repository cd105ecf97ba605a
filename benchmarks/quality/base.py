"""Fine-tune a whole base model on reading: for tasks that it is too weak for as it is.

    python -m benchmarks.quality.base --samples build/quality/reading.jsonl.gz \
        --held-out build/quality/reading_held_out.jsonl.gz --model smollm2 --out build/reader

The folder gets an ordinary transformers model in bfloat16, and `reading.json` with the losses. It
appears when the training is done; a run that was cut starts again.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from benchmarks.common.files import save
from benchmarks.quality import LOG
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from lragent.engine.loader import load_model
from lragent.training.batches import PlannedBatches
from lragent.training.encoding import IGNORED, Example, collate, encode_all
from lragent.training.norms import fuse_norms
from lragent.training.samples import read_samples
from lragent.training.trainer import output_loss


class _Batches(Dataset[list[Example]]):
    """Examples of similar length, planned together."""

    def __init__(self, examples: Sequence[Example], batch: int, seed: int, count: int | None):
        self._examples = examples
        self._plan = list(PlannedBatches(examples, batch, 1, seed, count))

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> list[Example]:
        return [self._examples[i] for i in self._plan[index]]


def train_base(
    model: str,
    samples: Path,
    held_out: Path,
    out: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    max_length: int = 1024,
    seed: int = 0,
    device: str = "cuda",
) -> dict[str, Any]:
    """Train all weights of `model` on what the samples put out; returns what `reading.json` holds.

    Raises:
        TrainingError: unusable samples.
        ModelUnavailableError: the model cannot be loaded.
    """
    loaded, tokenizer = load_model(model, dtype=torch.float32, device=device)
    if device != "cpu":
        fuse_norms(loaded)
    found = {}
    for name, path in (("train", samples), ("held out", held_out)):
        by_role, _ = read_samples([path], ("reader",))
        found[name], _ = encode_all(by_role["reader"], tokenizer, max_length)
    unseen = _Batches(found["held out"], batch_size, 0, None)
    before = exact_share(loaded, unseen)
    part = out.with_name(f".{out.name}.part")
    arguments = TrainingArguments(
        output_dir=str(part / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=1,  # of the planned batches
        per_device_eval_batch_size=1,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        bf16=device != "cpu",
        use_cpu=device == "cpu",
        logging_steps=max(1, steps // 50),
        eval_strategy="steps",
        eval_steps=max(1, steps // 8),
        prediction_loss_only=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=seed,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)
    trainer = Trainer(
        model=cast(torch.nn.Module, loaded),
        args=arguments,
        data_collator=_collate,
        train_dataset=_Batches(found["train"], batch_size, seed, steps),
        eval_dataset=unseen,
        compute_loss_func=output_loss,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.floating_point_ops = lambda inputs: 0  # counting walks over all parameters, each step
    start = time.monotonic()
    trainer.train()
    log = {
        "model": model,
        "settings": {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "max_length": max_length,
            "seed": seed,
        },
        "samples": {name: len(examples) for name, examples in found.items()},
        "seconds": round(time.monotonic() - start, 1),
        "losses": _curve(trainer, "loss"),
        "held_out_losses": _curve(trainer, "eval_loss"),
        "exact_before": before,
        "exact": exact_share(loaded, unseen),
    }
    shutil.rmtree(part, ignore_errors=True)
    cast(torch.nn.Module, loaded).to(torch.bfloat16)
    loaded.save_pretrained(part)
    tokenizer.save_pretrained(part)
    save(part / LOG, log)
    part.replace(out)
    return log


@torch.inference_mode()
def exact_share(model: Any, batches: _Batches) -> float:
    """Percentage of samples whose whole output is predicted greedily, teacher-forced."""
    model.eval()
    exact, count = 0, 0
    for index in range(len(batches)):
        inputs = _collate([batches[index]])
        labels = inputs["labels"].to(model.device)
        bf16 = model.device.type == "cuda"
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            logits = model(
                input_ids=inputs["input_ids"].to(model.device),
                logits_to_keep=inputs["logits_to_keep"],
            ).logits[:, :-1]
        targets = labels[:, -logits.shape[1] :]
        wrong = (targets != IGNORED) & (logits.argmax(-1) != targets)
        exact += int((~wrong.any(1)).sum())
        count += len(labels)
    return 100 * exact / count


def _collate(batches: Sequence[Sequence[Example]]) -> dict[str, Any]:
    inputs = collate(batches[0])
    del inputs["role"]
    return inputs


def _curve(trainer: Trainer, name: str) -> list[tuple[int, float]]:
    """Pairs of step and value."""
    history = trainer.state.log_history
    return [(int(entry["step"]), round(entry[name], 4)) for entry in history if name in entry]


def main(words: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Fine-tune a whole base model on reading.")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    settings = vars(parser.parse_args(words))
    log = train_base(**settings)
    print(
        f"{log['seconds']} s, held-out loss {log['held_out_losses']}, "
        f"exact {log['exact_before']:.1f} -> {log['exact']:.1f} %"
    )


if __name__ == "__main__":
    main()

"""transformers' Trainer, taught to alternate roles, to learn outputs only, and to resume."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from lragent.training.batches import PlannedBatches
from lragent.training.config import TrainConfig, TrainedFor
from lragent.training.encoding import IGNORED, Example, collate
from lragent.training.lora import parameters_by_rate, trainable_state, use_role
from lragent.training.prepare import check_trainable
from lragent.training.served import ServedForward
from lragent.training.turns import Turns

if TYPE_CHECKING:
    from peft import PeftModel

_WEIGHTS = "trained.safetensors"


def output_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """Cross entropy over the learnt tokens.

    Args:
        outputs: of the model, with `logits` [batch, kept, vocabulary] of the last positions.
        labels: [batch, longest] int64; `IGNORED` where nothing is learnt.
        num_items_in_batch: learnt tokens of all batches of this optimiser step; None: of this one.
    """
    kept = outputs.logits.shape[1]
    # The last position predicts nothing.
    following = labels[:, labels.shape[1] - kept + 1 :]
    targets = nn.functional.pad(following, (0, 1), value=IGNORED)
    # Few kept positions are learnt, and each takes several float32 rows of the vocabulary's size.
    learnt = targets != IGNORED
    logits = outputs.logits[learnt].float()
    total = nn.functional.cross_entropy(logits, targets[learnt], reduction="sum")
    return total / (learnt.sum() if num_items_in_batch is None else num_items_in_batch)


class _Examples(Dataset[Example]):
    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


class RoleTrainer(Trainer):
    """Trains the adapters of one or several roles on one model, following a plan of batches."""

    def __init__(
        self,
        model: PeftModel,
        roles: Sequence[str],
        examples: Sequence[Example],
        config: TrainConfig,
        folder: Path,
        callbacks: list[TrainerCallback],
        acting: Sequence[int] = (),
    ) -> None:
        """Prepare a run whose checkpoints go to `folder`; `acting` are the adapters' acting tokens.

        Raises:
            TrainingError: a model or targets that cannot be served as the run trains for.
        """
        self._served = None
        if config.trained_for is not TrainedFor.ISOLATED:
            check_trainable(model)
            self._served = ServedForward(model)
        self._acting = acting
        self._readers = ()
        if config.trained_for is TrainedFor.BASE_LR:
            self._readers = config.roles if config.readers == "random" else config.roles[:1]
        limit = config.max_steps and config.max_steps * config.accumulation
        self._plan = PlannedBatches(examples, config.batch_size, config.epochs, config.seed, limit)
        self._alternates = len(roles) > 1
        device = next(model.parameters()).device
        on_gpu = device.type == "cuda"
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=-(-len(self._plan) // config.accumulation),
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulation,
            learning_rate=config.rate(roles[0]),
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup,
            bf16=on_gpu and torch.cuda.is_bf16_supported(),
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=on_gpu,
            save_strategy="steps",
            save_steps=config.checkpoint_every,
            save_total_limit=2,
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=config.seed,
        )
        if arguments.bf16:
            # Autocast casts what a layer is given; PEFT would first cast it to float32, in vain.
            for layer in model.modules():
                if isinstance(layer, LoraLayer):
                    layer.cast_input_dtype_enabled = False
        # One process uses one GPU; the Trainer would otherwise spread batches over all it sees.
        arguments._n_gpu = min(1, arguments.n_gpu)
        optimizer = torch.optim.AdamW(
            cast(Any, parameters_by_rate(model, roles, config)),
            weight_decay=config.weight_decay,
            fused=True,
        )
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=_Examples(examples),
            compute_loss_func=output_loss,
            optimizers=(optimizer, None),
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        """All batches of the run, in their planned order."""
        loader = DataLoader(
            cast(_Examples, self.train_dataset),
            batch_sampler=cast(Any, self._plan),
            collate_fn=collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any):
        """Loss of one batch, under the adapter of the batch's role."""
        role = inputs.pop("role")
        if self._alternates:
            use_role(cast("PeftModel", self.model), role)
        if self._served is not None:
            # Python's generator, whose state the Trainer keeps in each checkpoint.
            reader = random.choice(self._readers) if self._readers else None
            self._served.isolated = reader == role
            self._served.reader = reader
            turns = Turns.of(inputs["labels"])
            if self._acting:
                turns = turns.acting_from(inputs["input_ids"], self._acting)
            self._served.turns = turns
        return super().compute_loss(model, inputs, *args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nothing; the Trainer would walk over all parameters in every step to count them."""
        return 0

    def held_out_loss(self, examples: Sequence[Example]) -> float:
        """Mean loss over the outputs of examples of one role."""
        return self.evaluate(cast(Any, _Examples(examples)))["eval_loss"]

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end."""
        folder = Path(cast(str, self.args.output_dir))
        found = [(int(path.name.split("-")[-1]), path) for path in folder.glob("checkpoint-*")]
        return next((path for _, path in sorted(found, reverse=True) if _is_whole(path)), None)

    # The Trainer's own way of keeping a PEFT model writes each adapter apart, which would undo a
    # tied A, and makes a frozen A trainable again when it loads. Both methods are its extension
    # points for that.
    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(cast(str, output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trainable_state(cast(nn.Module, self.model)), folder / _WEIGHTS)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        saved = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        parameters = dict(cast(nn.Module, model or self.model).named_parameters())
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the file that the Trainer writes last is there and complete."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True

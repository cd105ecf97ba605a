"""Training the roles of one round on one model, from loading it to saved adapters."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from transformers import set_seed

from lragent.engine.loader import load_model
from lragent.training.acting import acting_tokens, choose_text
from lragent.training.card import model_card
from lragent.training.config import Mode, TrainConfig, TrainedFor
from lragent.training.encoding import Example, encode_all
from lragent.training.errors import TrainingError
from lragent.training.lora import (
    add_adapters,
    checkpoint_activations,
    freeze_shared,
    tie_shared,
    use_role,
)
from lragent.training.norms import fuse_norms
from lragent.training.output import save_adapter, saved_weights
from lragent.training.progress import ProgressBar
from lragent.training.record import CHECKPOINTS, Record
from lragent.training.report import RoleResult
from lragent.training.samples import DataFile, Sample
from lragent.training.trainer import RoleTrainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


class Session:
    """One round of a run: one role, or in mode `joint` all of them."""

    def __init__(
        self,
        config: TrainConfig,
        roles: Sequence[str],
        record: Record,
        files: Sequence[DataFile],
        device: torch.device,
    ) -> None:
        """Finished roles are noted in `record`; `files` are named in the model cards."""
        self._config = config
        self._roles = roles
        self._record = record
        self._files = files
        self._device = device

    def run(
        self,
        samples: Mapping[str, Sequence[Sample]],
        held_out: Mapping[str, Sequence[Sample]],
        show_progress: bool,
    ) -> None:
        """Train, save the adapters, and note the roles as finished."""
        config = self._config
        model, tokenizer = self._load()
        train, dropped = self._encode(samples, tokenizer)
        evaluated, _ = self._encode(held_out, tokenizer)
        acting: list[int] = []
        if config.trained_for is TrainedFor.NEUTRAL:
            text = self._acting_text(samples, tokenizer)
            config = config.model_copy(update={"acting_text": text})
            acting = acting_tokens(text, tokenizer)
        checkpoints = config.out / CHECKPOINTS / "-".join(self._roles)
        bar = ProgressBar("training " + ", ".join(self._roles), show_progress)
        trainer = RoleTrainer(
            model,
            self._roles,
            [example for role in self._roles for example in train[role]],
            config,
            checkpoints,
            [bar],
            acting,
        )
        start = time.monotonic()
        checkpoint = trainer.last_checkpoint()
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            bar.close()
        seconds = time.monotonic() - start
        few = max(1, len(bar.losses) // 10)
        for role in self._roles:
            use_role(model, role)
            loss = trainer.held_out_loss(evaluated[role]) if evaluated[role] else None
            result = RoleResult(
                role=role,
                samples=len(train[role]),
                dropped=dropped[role],
                steps=trainer.state.global_step,
                seconds=round(seconds, 1),
                first_loss=fmean(bar.losses[:few]),
                last_loss=fmean(bar.losses[-few:]),
                eval_loss=loss,
                losses=tuple(bar.losses),
                device=_device_name(self._device),
                finished=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            save_adapter(model, role, config, model_card(config, result, self._files), acting)
            self._record.finished[role] = result
        self._record.save(config.out)
        shutil.rmtree(checkpoints)

    def _load(self) -> tuple[PeftModel, PreTrainedTokenizerBase]:
        """Base model with the adapters of this round, and the tokenizer."""
        config = self._config
        on_bf16 = self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        dtype = torch.bfloat16 if on_bf16 else torch.float32
        base, tokenizer = load_model(config.model, dtype=dtype, device=self._device)
        if self._device.type == "cuda":
            fuse_norms(base)
        if config.gradient_checkpointing:
            checkpoint_activations(base)
        set_seed(config.seed + config.roles.index(self._roles[0]))
        model = add_adapters(base, self._roles, config)
        first = config.roles[0]
        if config.mode is Mode.JOINT:
            tie_shared(model, self._roles, config.shared_projections)
        elif config.mode is Mode.SHARED_A and self._roles[0] != first:
            # From the saved file, so that A is equal to the bit in whatever dtype it was saved.
            weights = saved_weights(config.out / first)
            freeze_shared(model, self._roles[0], weights, config.shared_projections)
        if config.trained_for is TrainedFor.BASE_LR and first not in self._roles:
            trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
            model.load_adapter(str(config.out / first), adapter_name=first)
            for parameter in trainable:  # PEFT 0.19 freezes the active adapter with the loaded one
                parameter.requires_grad_(True)
        return model, tokenizer

    def _acting_text(
        self, samples: Mapping[str, Sequence[Sample]], tokenizer: PreTrainedTokenizerBase
    ) -> str:
        """From which text on the roles of the whole run act; found once and kept in the record."""
        config, record = self._config, self._record
        if config.acting_text == "":
            return ""
        if record.acting_text is None:
            everything = [sample for own in samples.values() for sample in own]
            examples, _ = encode_all(everything, tokenizer, config.max_length)
            prompts = [example.ids[: -example.learnt] for example in examples]
            record.acting_text = choose_text(config.acting_text, prompts, tokenizer)
            record.save(config.out)
        return record.acting_text

    def _encode(
        self, samples: Mapping[str, Sequence[Sample]], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[dict[str, list[Example]], dict[str, int]]:
        """Examples of this round's roles, and how many samples were too long."""
        examples: dict[str, list[Example]] = {}
        dropped: dict[str, int] = {}
        for role in self._roles:
            examples[role], dropped[role] = encode_all(
                samples[role], tokenizer, self._config.max_length
            )
            if dropped[role] and not examples[role]:
                raise TrainingError(
                    f"every sample of {role} is longer than {self._config.max_length} tokens: "
                    "raise --max-length"
                )
        return examples, dropped


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"

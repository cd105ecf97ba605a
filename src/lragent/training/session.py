"""Training the roles of one round on one model, from loading it to saved adapters."""

from __future__ import annotations

import logging
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
from lragent.sharing.turns import last_occurrence
from lragent.training.card import model_card
from lragent.training.config import TOOL_OUTPUTS, Mode, TrainConfig, TrainedFor
from lragent.training.encoding import Example, encode_all, text_tokens
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

logger = logging.getLogger(__name__)


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
        acting = self._acting(train, tokenizer)
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

    def _acting(
        self, examples: Mapping[str, Sequence[Example]], tokenizer: PreTrainedTokenizerBase
    ) -> list[int]:
        """The adapters' acting tokens; none where a role acts from the prompt's last token on."""
        text = self._config.acting_text
        if self._config.trained_for is not TrainedFor.NEUTRAL or text == "":
            return []
        prompts = [example.ids[: -example.learnt] for own in examples.values() for example in own]
        if text is not None:
            tokens = text_tokens(text, tokenizer)
            if all(last_occurrence(prompt, tokens) is None for prompt in prompts):
                raise TrainingError(
                    f"no prompt holds the acting text {text!r} (tokens {tokens}): give text that "
                    "the prompts end with, or leave the option out"
                )
            return tokens
        for text in TOOL_OUTPUTS:
            tokens = text_tokens(text, tokenizer)
            without = sum(last_occurrence(prompt, tokens) is None for prompt in prompts)
            if 2 * without <= len(prompts):
                return tokens
        logger.warning(
            "%s will act from each prompt's last token on. Some roles that were trained so lost "
            "right answers; give a text that begins what is new in each prompt as the acting text "
            "(--acting-text)",
            ", ".join(self._roles),
        )
        return []

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

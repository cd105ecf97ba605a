"""Training for `neutral` in somebody else's loop."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from lragent.adapters import AdapterError
from lragent.adapters.peft_config import CONFIG_FILE, parse_config
from lragent.engine.families import FAMILIES
from lragent.training.errors import TrainingError
from lragent.training.served import ServedForward
from lragent.training.turns import Turns

logger = logging.getLogger(__name__)

ENOUGH = 64
"""Samples after which acting tokens that none of them holds are reported."""


def prepare_for_neutral(model: PeftModel, acting_tokens: Sequence[int] = ()) -> PeftModel:
    """Have a PEFT model train as it will be served under `neutral`.

    The base model computes each sample's context, and the active adapter its turn: the prompt from
    the last occurrence of `acting_tokens` on (without any, its last token) and the output. The
    labels that a trainer passes anyway say where that is, so transformers' Trainer and TRL's
    SFTTrainer need no other change; gradient accumulation, gradient checkpointing, mixed precision
    and any attention implementation work as usual. Without labels the model refuses to run. What is
    saved is an ordinary adapter; `write_sidecar` notes next to it what it was trained for.

    Args:
        model: Llama, Mistral, Qwen2 or Qwen3 with a LoRA adapter, in place before the trainer is
            made; changed in place.
        acting_tokens: ids of the tokens from which the adapter acts; give `write_sidecar` the same.
            A warning says so once when none of the first 64 samples holds them.

    Returns:
        The same model.

    Raises:
        TrainingError: another kind of model, or an adapter that cannot be served on a shared
            cache (DoRA, biases, embeddings, k_proj under a key norm …).
    """
    check_trainable(model)
    served = ServedForward(model)
    acting = tuple(acting_tokens)
    search = _Search(acting)

    def find_turns(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        labels = kwargs.get("labels")
        if labels is None:
            served.turns = None
            return
        served.turns = turns = Turns.of(labels, kwargs.get("attention_mask"))
        if acting:
            search.note(turns, kwargs["input_ids"])
            served.turns = turns.acting_from(kwargs["input_ids"], acting)

    model.register_forward_pre_hook(find_turns, with_kwargs=True)
    return model


class _Search:
    """Says once if none of the first samples holds the acting tokens."""

    def __init__(self, acting: Sequence[int]) -> None:
        self._acting = list(acting)
        self._in_vain = 0
        self._over = False

    def note(self, turns: Turns, ids: Tensor) -> None:
        """Look into a batch, whose turns begin with the prompts' last tokens."""
        if self._over:
            return
        self._over = bool(turns.places(ids, self._acting).any())
        self._in_vain += len(ids)
        if self._over or self._in_vain < ENOUGH:
            return
        self._over = True
        logger.warning(
            "None of the first %d prompts holds the acting tokens %s, so the adapter acts from "
            "each prompt's last token on. See that they are those of the text as the prompts have "
            "it (lragent.training.acting_tokens)",
            self._in_vain,
            self._acting,
        )


def check_trainable(model: PeftModel) -> None:
    """Refuse a model that `ServedForward` would not compute as it is served.

    Raises:
        TrainingError: see `prepare_for_neutral`.
    """
    if not isinstance(model, PeftModel) or not isinstance(model.base_model, LoraModel):
        raise TrainingError(
            f"{type(model).__name__} is no PEFT model with LoRA adapters: make one with "
            "peft.get_peft_model and a LoraConfig"
        )
    family = cast(Any, model.get_base_model()).config.model_type
    if family not in FAMILIES:
        raise TrainingError(
            f"models of type {family!r} cannot be trained for a shared cache; supported types "
            f"are {', '.join(FAMILIES)}"
        )
    for name, config in model.peft_config.items():
        if getattr(config, "alora_invocation_tokens", None):
            raise TrainingError(
                f"adapter {name!r} is an aLoRA, which PEFT already trains as it is served under "
                "neutral: train it without this function"
            )
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            path = Path(folder) / CONFIG_FILE
            try:
                parse_config(path)
            except AdapterError as error:
                raise TrainingError(str(error).replace(str(path), f"adapter {name!r}")) from error
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if not isinstance(module.get_base_layer(), nn.Linear):
            raise TrainingError(f"LoRA on {name}, which is no linear layer, cannot be served")
        parent = model.get_submodule(name.rsplit(".", 1)[0])
        if name.endswith("k_proj") and hasattr(parent, "k_norm"):
            raise TrainingError(
                f"LoRA on {name} cannot be served: {family} normalises keys after k_proj; target "
                "other modules"
            )

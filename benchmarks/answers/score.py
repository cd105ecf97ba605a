"""Scores of trained roles on held-out samples, teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lragent.adapters import read_adapter
from lragent.training.encoding import IGNORED, Example, collate
from lragent.training.lora import use_role
from lragent.training.served import ServedForward
from lragent.training.turns import Turns


@dataclass(frozen=True)
class Condition:
    """How a role's context was read: by whom, and what the role sees of it."""

    policy: str
    reader: str | None = None

    def __str__(self) -> str:
        return self.policy if self.reader is None else f"{self.policy}, read by {self.reader}"


def conditions(role: str, roles: Sequence[str]) -> list[Condition]:
    """All conditions for a role of a group: alone, neutral, and read by each other member."""
    others = [reader for reader in roles if reader != role]
    return [
        Condition("isolated"),
        Condition("neutral"),
        *(Condition(policy, reader) for policy in ("base+lr", "full") for reader in others),
    ]


class Scorer:
    """A base model with a group's adapters, whose outputs are compared with the samples'."""

    def __init__(self, base: Any, folder: Path, roles: Sequence[str]) -> None:
        """`folder` holds one adapter folder a role."""
        first, *others = roles
        self._model = PeftModel.from_pretrained(base, str(folder / first), adapter_name=first)
        for role in others:
            self._model.load_adapter(str(folder / role), adapter_name=role)
        self._acting = {role: read_adapter(folder / role).acting_tokens for role in roles}
        self._model.eval()
        self._served = ServedForward(self._model)
        self._device = next(self._model.parameters()).device

    @torch.inference_mode()
    def score(
        self, role: str, condition: Condition, examples: Sequence[Example], batch: int
    ) -> dict[str, float]:
        """Share of samples whose whole output is predicted greedily, in percent, and NLL a token.

        Returns `exact`, `nll` (nats), `tokens`, `samples`, and `own_prompt_tokens`, the mean number
        of prompt tokens that the role computes itself (under `neutral` they are private).
        """
        use_role(self._model, role)
        served = self._served
        served.isolated = condition.policy == "isolated"
        served.own_terms = condition.policy != "full"
        served.reader = condition.reader
        nll, tokens, exact, private = 0.0, 0, 0, 0
        ordered = sorted(examples, key=lambda example: len(example.ids))
        for start in range(0, len(ordered), batch):
            inputs = collate(ordered[start : start + batch])
            inputs.pop("role")
            labels = inputs.pop("labels").to(self._device)
            ids = inputs["input_ids"].to(self._device)
            turns = Turns.of(labels)
            prompts = turns.start + 1
            if acting := self._acting[role]:
                turns = turns.acting_from(ids, acting)
            served.turns = turns
            first = turns.first if served.isolated else turns.start
            private += int((prompts - first).sum())
            bf16 = self._device.type == "cuda"
            with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
                logits = self._model(
                    input_ids=ids,
                    logits_to_keep=inputs["logits_to_keep"],
                ).logits[:, :-1]
            targets = labels[:, -logits.shape[1] :]
            learnt = targets != IGNORED
            chosen = logits[learnt].float()
            wanted = targets[learnt]
            loss = torch.nn.functional.cross_entropy(chosen, wanted, reduction="sum")
            wrong = torch.zeros_like(learnt)
            wrong[learnt] = chosen.argmax(-1) != wanted
            nll += loss.item()
            tokens += len(wanted)
            exact += int((~wrong.any(1)).sum())
        return {
            "exact": 100 * exact / len(ordered),
            "nll": nll / tokens,
            "tokens": tokens,
            "samples": len(ordered),
            "own_prompt_tokens": private / len(ordered),
        }

"""What the hooked model needs to know about the step that runs through it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lragent.attention.base import AttentionBatch


@dataclass
class Step:
    """One packed forward pass: `T` tokens of `S` sequences, on the model's device.

    Attributes:
        input_ids, positions: `[1, T]` int64.
        attention: lengths, block tables, adapters and slots of the sequences.
        slot_mapping: `[T]` int64, page * page_size + offset of each token's row; -1 for padding.
        write_base: `[T]` bool, False where K and V_base are another request's and must stay.
        base_rows: row numbers whose K and V_base must be computed; None for all rows. Empty when
            the whole step only fills LR slots, so that the projections are skipped.
        lr_rows: `[T, F]` int32, rows of the table of distinct A whose product each token writes,
            -1 for none; F = 0 when no token of the step writes any.
        lr_slots: `[T, F]` int32, the slot that each of these products goes to, -1 for none.
        lora_mask: `[T, R]` with 1 in the columns of the token's adapter among the ranks of all
            adapters; None when no token has an adapter.
        fold_mask: the same for tokens whose adapter term is folded into K and V: under policy
            `full`, and in the turn of an aLoRA adapter.
        logit_rows: `[L]` int64, rows whose logits are wanted.
    """

    input_ids: Tensor
    positions: Tensor
    attention: AttentionBatch
    slot_mapping: Tensor
    write_base: Tensor
    base_rows: Tensor | None
    lr_rows: Tensor
    lr_slots: Tensor
    lora_mask: Tensor | None
    fold_mask: Tensor | None
    logit_rows: Tensor


class StepContext:
    """The current step, shared by the hooks of all layers."""

    def __init__(self) -> None:
        self._step: Step | None = None

    @property
    def step(self) -> Step:
        """The step that runs now.

        Raises:
            RuntimeError: the hooked model was called outside the engine.
        """
        if self._step is None:
            raise RuntimeError(
                "this model belongs to an lragent Engine and runs only through it; load another "
                "copy of the model to call it directly"
            )
        return self._step

    def enter(self, step: Step) -> None:
        """Make `step` the current one."""
        self._step = step

    def leave(self) -> None:
        """Forget the step."""
        self._step = None

"""Where, in each row of a batch, the context ends and the turn begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lragent.training.encoding import IGNORED
from lragent.training.errors import TrainingError


@dataclass(frozen=True)
class Turns:
    """The context and the turn of each row, which ends with what is learnt.

    Attributes:
        first: [rows] int64, column of the first token.
        start: [rows] int64, column of the acting position; the last token of the prompt, unless
            `acting_from` moves it.
        end: [rows] int64, column after the last learnt token.
    """

    first: Tensor
    start: Tensor
    end: Tensor

    @classmethod
    def of(cls, labels: Tensor, mask: Tensor | None = None) -> Turns:
        """Find the turns by the labels.

        Args:
            labels: [rows, columns] int64; `IGNORED` where nothing is learnt.
            mask: [rows, columns], 0 at padding; None when all padding lies after the labels.

        Raises:
            TrainingError: a mask of other dimensions, or a row that learns more than one
                contiguous output.
        """
        if mask is not None and mask.dim() != 2:
            raise TrainingError(
                "training for a shared cache needs a padding mask of two dimensions, not "
                f"{mask.dim()}"
            )
        learnt = labels != IGNORED
        columns = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
        real = torch.ones_like(learnt) if mask is None else mask.bool()
        first_real, last_real = _first(real), _last(real, columns)
        first, last = _first(learnt), _last(learnt, columns)
        count = learnt.sum(1)
        # A row that learns nothing has its last token as its turn.
        start = torch.where(count > 0, (first - 1).maximum(first_real), last_real)
        end = torch.where(count > 0, last, last_real) + 1
        if ((count > 0) & (count != last - first + 1)).any():
            raise TrainingError(
                "the labels of a sample have gaps: it holds several turns, or several packed "
                "samples. Make one sample of each turn (the earlier ones are its prompt), and "
                "switch packing off."
            )
        return cls(first_real, start, end)

    def acting_from(self, ids: Tensor, acting: Sequence[int]) -> Turns:
        """These turns, each beginning where serving has an adapter with acting tokens begin.

        That is their last occurrence in the prompt; where they do not occur, its last token.

        Args:
            ids: [rows, columns] int64, the batch.
            acting: token ids.
        """
        begins = self.places(ids, acting)
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return replace(self, start=torch.where(begins.any(1), _last(begins, columns), self.start))

    def places(self, ids: Tensor, acting: Sequence[int]) -> Tensor:
        """Where in the prompts the acting tokens begin.

        Args:
            ids: [rows, columns] int64, the batch.
            acting: token ids.

        Returns:
            bool, [rows, columns].
        """
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        last = columns + len(acting) - 1
        begins = (columns >= self.first[:, None]) & (last <= self.start[:, None])
        for place, token in enumerate(acting):
            begins &= ids.roll(-place, 1) == token
        return begins


def columns_between(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Columns from `start` to before `end` of each row, and which of them are real.

    Args:
        start: [rows] int64.
        end: likewise.

    Returns:
        int64 and bool, [rows, longest]; columns that are not real repeat the first one.
    """
    length = end - start
    step = torch.arange(int(length.max()), device=length.device)
    real = step < length[:, None]
    return torch.where(real, start[:, None] + step, start[:, None]), real


def _first(marked: Tensor) -> Tensor:
    return marked.int().argmax(1)


def _last(marked: Tensor, columns: Tensor) -> Tensor:
    return columns.masked_fill(~marked, 0).amax(1)

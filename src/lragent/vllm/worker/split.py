"""Requests whose context and turn are computed in one step: two rows of attention each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """The rows of a step in which some request is two: its context, then its turn.

    Attributes:
        request: ``[rows]`` int64, whose tokens a row has.
        tokens: ``[rows]`` int64, how many.
        behind: ``[rows]`` int64, tokens of the same request that follow in the next row.
        acts: ``[rows]`` bool, whether the adapter computes them.
        total: tokens of the step.
    """

    request: np.ndarray
    tokens: np.ndarray
    behind: np.ndarray
    acts: np.ndarray
    total: int


def split_rows(scheduled: np.ndarray, context: np.ndarray) -> Split | None:
    """The rows of a step; None where each request is one.

    Args:
        scheduled: ``[R]``, tokens of each request.
        context: ``[R]``, how many of these belong to its context.
    """
    crosses = (context > 0) & (context < scheduled)
    if not crosses.any():
        return None
    request = np.repeat(np.arange(len(scheduled)), 1 + crosses)
    second = np.diff(request, prepend=-1) == 0
    turn = (scheduled - context)[request]
    behind = np.where(crosses[request] & ~second, turn, 0)
    tokens = np.where(second, turn, scheduled[request] - behind)
    acts = second | (context[request] == 0)
    return Split(request, tokens, behind, acts, int(scheduled.sum()))

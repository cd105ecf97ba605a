"""The one error of this package."""

from __future__ import annotations


class EvaluationError(ValueError):
    """An evaluation that cannot be made; the message says why and what to do."""

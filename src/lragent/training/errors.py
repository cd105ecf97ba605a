"""What can go wrong in a training run, said so that a person can act on it."""

from __future__ import annotations


class TrainingError(ValueError):
    """Settings, samples or a disk that a training run cannot go on with."""

"""What adapters were trained for, and a warning when they are used under another policy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

logger = logging.getLogger(__name__)

_told: set[tuple[str, str, str]] = set()


class Trained(Protocol):
    """What is asked of an adapter: its identity, and the policy that it was trained for."""

    @property
    def digest(self) -> str:
        """Identity of the adapter."""
        ...

    @property
    def trained_for(self) -> str | None:
        """Name of a policy, None when it does not say."""
        ...


def warn_of_other_policy(name: str, adapter: Trained, policy: str) -> None:
    """Log a warning, once for each name, content and policy, if training was for another one.

    Args:
        name: the name that requests use.
        adapter: the adapter; one that does not say what it was trained for is left alone.
        policy: the sharing policy that it is used under.
    """
    told = (name, adapter.digest, policy)
    if adapter.trained_for in (None, policy) or told in _told:
        return
    if not logger.isEnabledFor(logging.WARNING):
        return
    _told.add(told)
    logger.warning(
        "adapter %r was trained for the sharing policy %r and is used under %r, where its answers "
        "may be worse; use it under %r, or train it for %r",
        name, adapter.trained_for, policy, adapter.trained_for, policy,
    )  # fmt: skip


@contextmanager
def other_policies_on_purpose() -> Iterator[None]:
    """Within it nobody is warned: policies are compared, on the same adapters."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

"""What the tables of all result files have in common."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
Table = list[list[str]]


def number(value: float | None) -> str:
    """Three significant digits, or all before the point, with commas."""
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"

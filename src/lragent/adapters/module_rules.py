"""Which modules an adapter_config.json means, by PEFT's rules and in linear time.

PEFT matches `target_modules` (when it is a string), `exclude_modules`, `rank_pattern`,
`alpha_pattern` and `layers_pattern` as regular expressions with Python's `re`, where a hostile one
takes exponential time. RE2 has no backtracking; it refuses look-around and back-references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import re2

MOST_PATTERNS = 2048
MOST_CHARACTERS = 20_000

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_FIRST_INDEX = re2.compile(r".*?\.[^.]*\.(\d+)\.", _OPTIONS)


class PatternError(ValueError):
    """A pattern that cannot be matched safely; the message names it."""


def _compile(form: str, pattern: str) -> Any:
    """The pattern in the place of `{}` in PEFT's own expression."""
    if len(pattern) > MOST_CHARACTERS:
        raise PatternError(f"{pattern[:40]!r}… has more than {MOST_CHARACTERS:,} characters")
    try:
        re2.compile(pattern, _OPTIONS)  # on its own too: `a)(b` is no expression
        return re2.compile(form.replace("{}", pattern), _OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise PatternError(
            f"{pattern[:200]!r} is no valid regular expression without look-around and "
            f"back-references ({reason[:200]})"
        ) from None


class NameRule:
    """`target_modules` or `exclude_modules`: an expression, or exact names and suffixes."""

    def __init__(self, rule: str | Sequence[str] | None):
        self._pattern = _compile("{}", rule) if isinstance(rule, str) and rule else None
        self._names = frozenset() if isinstance(rule, str) or rule is None else frozenset(rule)

    def exact(self, module: str) -> bool:
        """Whether the expression matches the name, or the list holds it."""
        if self._pattern is not None:
            return self._pattern.fullmatch(module) is not None
        return module in self._names

    def suffix(self, module: str) -> bool:
        """Whether the list holds what follows one of the name's dots."""
        dots = (place for place, letter in enumerate(module) if letter == ".")
        return any(module[dot + 1 :] in self._names for dot in dots)


class LayerRule:
    """`layers_to_transform` and `layers_pattern`: the layers in which suffixes count."""

    def __init__(self, layers: int | Sequence[int] | None, patterns: str | Sequence[str] | None):
        self._layers = None
        if layers is not None and layers != []:
            self._layers = frozenset([layers] if isinstance(layers, int) else layers)
        patterns = [patterns] if isinstance(patterns, str) else patterns or []
        _check_number(patterns)
        form = r"(?:^|.*?\.){}\.(\d+)\."
        self._patterns = [_compile(form, pattern) for pattern in patterns if pattern]
        self._patterns = self._patterns or [_FIRST_INDEX]

    def holds(self, module: str) -> bool:
        """Whether the module lies in one of the layers."""
        if self._layers is None:
            return True
        for pattern in self._patterns:
            if (match := pattern.match(module)) is not None:
                return int(match.group(pattern.groups)) in self._layers
        return False


class PatternTable:
    """`rank_pattern` or `alpha_pattern`: the first expression that matches a name's end counts."""

    def __init__(self, table: Mapping[str, float] | None):
        table = table or {}
        _check_number(table)
        self._rows = [(_compile(r"(.*\.)?({})$", key), value) for key, value in table.items()]

    def get(self, module: str, default: Any) -> Any:
        """The value of the first pattern that matches."""
        return next((value for key, value in self._rows if key.match(module)), default)


def _check_number(patterns: Mapping[str, object] | Sequence[str]) -> None:
    if len(patterns) > MOST_PATTERNS:
        raise PatternError(f"there are {len(patterns):,} patterns, and {MOST_PATTERNS:,} at most")

"""The tables of docs/internals/keys.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DESCRIPTION = ROOT / "docs" / "internals" / "keys.md"


class Row(NamedTuple):
    """A field of a hash: its type, what it is, and what it stands once for each of."""

    type: str
    text: str
    each: str

    @property
    def name(self) -> str:
        """Without the explanation behind a colon."""
        return self.text.split(":")[0]


def described() -> dict[str, tuple[int, list[Row]]]:
    """Schema and rows of each purpose."""
    found = {}
    for section in DESCRIPTION.read_text(encoding="utf-8").split("\n## ")[1:]:
        if head := re.match(r"`(.+)`, schema (\d+)\n", section):
            rows = re.findall(r"^\| `(.)` \| (.+?) \|(?: (.+?))? \|$", section, re.MULTILINE)
            found[head[1]] = int(head[2]), [Row(*row) for row in rows]
    return found


def names(*purposes: str) -> set[str]:
    """The names of all fields of some purposes."""
    tables = described()
    return {row.name for purpose in purposes for row in tables[purpose][1]}

"""Which adapter writes for which role, as given on the command line."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import typer

from lragent.adapters.names import near_misses
from lragent.agents.prompts import Role
from lragent.files import expanded

ROLES = tuple(role.value for role in Role)


def parse_pairs(
    pairs: list[str], hint: str = "--adapter", known: Collection[str] | None = ROLES
) -> dict[str, str]:
    """`["plan=folder", …]` as a dict; the names must be `known`, unless any will do (None).

    Raises typer.BadParameter, a usage error, otherwise.
    """
    named: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name and value):
            raise typer.BadParameter(f"{pair!r} is not NAME=PATH", param_hint=hint)
        if known is not None and name not in known:
            raise typer.BadParameter(
                f"{name!r} is no role{near_misses(name, known)}", param_hint=hint
            )
        if name in named:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=hint)
        named[name] = value
    return named


def folders_in(root: Path, hint: str = "--adapters-dir") -> dict[str, Path]:
    """The folders in `root` that have a role's name.

    Raises typer.BadParameter when there is none.
    """
    found = {role: root / role for role in ROLES if (root / role).is_dir()}
    if not found:
        raise typer.BadParameter(
            f"{root} holds no folder named {', '.join(ROLES[:-1])} or {ROLES[-1]}", param_hint=hint
        )
    return found


def given_folders(pairs: list[str] | None, root: Path | None) -> dict[str, Path]:
    """Adapter folders by role from both options; single ones go before those in a folder."""
    named = {name: expanded(path) for name, path in parse_pairs(pairs or []).items()}
    return (folders_in(expanded(root)) if root is not None else {}) | named


def all_folders_in(root: Path, hint: str = "--adapters-dir") -> dict[str, Path]:
    """The folders of all roles in `root`.

    Raises typer.BadParameter when one is missing.
    """
    found = folders_in(expanded(root), hint)
    missing = [role for role in ROLES if role not in found]
    if missing:
        raise typer.BadParameter(f"{root} holds no folder {', '.join(missing)}", param_hint=hint)
    return found

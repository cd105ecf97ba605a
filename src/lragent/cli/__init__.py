"""The `lragent` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, or say what to install where the extra `cli` is missing."""
    try:
        from lragent.cli.main import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit("The command needs more than the library: pip install 'lragent[cli]'")
    app()

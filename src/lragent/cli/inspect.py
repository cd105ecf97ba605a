"""``lragent inspect``: what adapters are, which of them can share what, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lragent.files import expanded

if TYPE_CHECKING:
    from lragent.adapters import Adapter


def _names(folders: list[Path]) -> dict[str, Path]:
    """The folders by their last part, or by the whole path where two end alike."""
    distinct = list(dict.fromkeys(map(expanded, folders)))
    endings = [folder.resolve().name for folder in distinct]
    return {
        str(folder) if endings.count(ending) > 1 else ending: folder
        for folder, ending in zip(distinct, endings, strict=True)
    }


def _read(
    folders: dict[str, Path], max_rank: int, base: str | None
) -> tuple[dict[str, Adapter], dict[str, str]]:
    """The adapters that can be served, and the reason for each that cannot."""
    from lragent.adapters import AdapterError, check_against_model, read_adapter
    from lragent.cli.base_model import model_facts

    model = None if base is None else model_facts(base)
    adapters: dict[str, Adapter] = {}
    refused: dict[str, str] = {}
    for name, folder in folders.items():
        try:
            adapter = read_adapter(folder, max_rank=max_rank)
            if model is not None:
                # The user named the model, so its sizes count and its name does not.
                check_against_model(adapter, model, allow_other_base=True)
        except AdapterError as error:
            refused[name] = str(error)
        else:
            adapters[name] = adapter
    return adapters, refused


def inspect(
    adapters: Annotated[list[Path], typer.Argument(help="PEFT adapter folders.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model, to check that the tensors fit it: folder, hub name, or smollm2."
        ),
    ] = None,
    max_rank: Annotated[int, typer.Option(min=1, help="Largest rank to accept.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show adapters, and which of them can share what in one KV cache, and why not.

    Exits with 1 when an adapter is refused; the others are shown all the same.
    """
    from rich.console import Console

    from lragent.cli.errors import show_error
    from lragent.cli.inspect_report import render_report
    from lragent.cli.output import print_json
    from lragent.sharing.compare import compare_adapters

    readable, refused = _read(_names(adapters), max_rank, base)
    report = compare_adapters(readable)
    if as_json:
        print_json(report.to_json() | {"refused": refused})
    else:
        if readable:
            Console().print(render_report(report))
        for name, reason in refused.items():
            show_error(f"{name} is refused: {reason}")
    if refused:
        raise typer.Exit(1)

"""``lragent check``: this environment, and whether adapters will share and what that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lragent.files import expanded

if TYPE_CHECKING:
    from lragent.cli.sharing_check import SharingCheck

_MIB = 1 << 20


def check(
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Adapter folder; repeat it for those of a group."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Base model: folder, hub name or smollm2. The adapters' own if none."),
    ] = None,
    context: Annotated[
        int, typer.Option(min=16, help="Tokens of the context that all of them read.")
    ] = 8192,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions and GPUs; with adapters, whether they will share and how much memory it takes.

    Loads no weights of the base model. Exits with 1 when something stands in the way.
    """
    from rich.console import Console

    from lragent.cli.environment import environment
    from lragent.cli.output import print_json
    from lragent.cli.role_adapters import parse_pairs

    given = parse_pairs(adapter or [], known=None)
    folders = {name: expanded(path) for name, path in given.items()}
    found = environment()
    sharing = None
    if folders:
        from lragent.cli.sharing_check import check_sharing

        sharing = check_sharing(folders, model, context)
    if as_json:
        print_json(found | ({} if sharing is None else {"sharing": sharing.to_json()}))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in _environment_lines(found):
            console.print(line, markup=False)
        if sharing is not None:
            _show(console, sharing)
    if found["vllm"]["problems"] or (sharing is not None and sharing.obstacles):
        raise typer.Exit(1)


def _environment_lines(found: dict[str, Any]) -> list[str]:
    packages = ", ".join(f"{k} {v or 'not installed'}" for k, v in found["packages"].items())
    gpus = ", ".join(f"{g['name']} ({g['bytes'] >> 30} GiB)" for g in found["gpus"])
    vllm = found["vllm"]
    lines = [
        f"lragent {found['lragent']}, Python {found['python']}, {found['system']}",
        packages,
        f"GPU: {gpus}" if gpus else f"GPU: none; the engine runs on {found['cores']} CPU cores",
        f"vLLM: {vllm['version'] or 'not in this environment'}"
        + "".join(f"; {problem}" for problem in vllm["problems"]),
    ]
    if found["missing_extras"]:
        lines.append(f"extras that are not installed: {', '.join(found['missing_extras'])}")
    return lines


def _show(console: Any, sharing: SharingCheck) -> None:
    from rich.table import Table

    console.print()
    for name, reason in sharing.obstacles.items():
        console.print(f"{name}: {reason}", style="red", markup=False)
    if not sharing.embedded:
        return
    count = len(sharing.members)
    if count > 1:
        slots = "1 LR slot" if sharing.slots == 1 else f"{sharing.slots} LR slots"
        console.print(
            f"{', '.join(sharing.members)} can form one group; {slots} under neutral and base+lr.",
            style="green", markup=False,
        )  # fmt: skip
    for line in sharing.notes:
        console.print(line, markup=False)
    table = Table(
        title=f"KV cache (MiB) of {sharing.context:,} tokens that each of {count} has read",
        title_justify="left",
    )
    table.add_column("policy")
    for column in ("engine", "vLLM plugin", "of isolated"):
        table.add_column(column, justify="right")
    isolated = sharing.embedded["isolated"]
    for policy, size in sharing.embedded.items():
        plugin = sharing.plugin.get(policy)
        table.add_row(
            policy,
            f"{size / _MIB:,.1f}",
            "-" if plugin is None else f"{plugin / _MIB:,.1f}",
            f"{size / isolated:.2f}",
        )
    console.print(table)
    console.print(f"In vLLM:\n\n{sharing.command}\n", markup=False)
    console.print("What sharing does to answers: lragent eval", style="dim", markup=False)

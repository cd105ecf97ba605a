"""The `lragent` command: one file a subcommand, heavy imports inside them."""

from __future__ import annotations

from typing import Annotated

import typer

import lragent
from lragent.cli.bench import bench
from lragent.cli.chat import chat
from lragent.cli.check import check
from lragent.cli.demo import demo
from lragent.cli.errors import ErrorGroup
from lragent.cli.eval import eval_
from lragent.cli.eval_task import eval_task
from lragent.cli.inspect import inspect
from lragent.cli.run import run
from lragent.cli.serve import serve
from lragent.cli.train import train
from lragent.cli.train_data import train_data

app = typer.Typer(
    cls=ErrorGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One KV cache for several LoRA agents over one base model.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lragent {lragent.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None: ...


app.command()(demo)
app.command()(run)
app.command()(chat)
app.command()(check)
app.command()(serve)
app.command()(train)
app.command()(train_data)
app.command("eval")(eval_)
app.command()(eval_task)
app.command()(inspect)
app.command()(bench)

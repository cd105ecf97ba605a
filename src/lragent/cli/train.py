"""``lragent train``: an adapter for each of several roles, trained for a sharing policy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lragent.training.config import Mode, TrainConfig, TrainedFor

if TYPE_CHECKING:
    from lragent.training import TrainReport

_DEFAULTS: dict[str, Any] = {
    name: field.default for name, field in TrainConfig.model_fields.items()
}

_BLOCKS = "▁▂▃▄▅▆▇█"


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _rates(pairs: list[str]) -> dict[str, float]:
    rates = {}
    for pair in pairs:
        role, _, rate = pair.partition("=")
        try:
            rates[role.strip()] = float(rate)
        except ValueError:
            raise typer.BadParameter(
                f"{pair!r} is no ROLE=RATE, for example plan=5e-5", param_hint="role-learning-rate"
            ) from None
    return rates


def _table(report: TrainReport) -> Any:
    from rich.table import Table

    table = Table(title=f"Adapters in {report.out} ({report.mode})")
    for column in ("role", "samples", "too long", "steps", "seconds", "loss", "held-out loss"):
        table.add_column(column, justify="left" if column == "role" else "right")
    table.add_column("loss by step")
    table.add_column("A digest")
    for trained in report.roles:
        result = trained.result
        digests = ", ".join(f"{name} {digest[:12]}" for name, digest in trained.a_digests.items())
        table.add_row(
            result.role + (" (kept)" if trained.kept else ""),
            str(result.samples),
            str(result.dropped),
            str(result.steps),
            f"{result.seconds:.0f}",
            f"{result.first_loss:.3f} → {result.last_loss:.3f}",
            "-" if result.eval_loss is None else f"{result.eval_loss:.3f}",
            curve(result.losses),
            digests,
        )
    return table


def curve(losses: Sequence[float], width: int = 16) -> str:
    """Losses as a line of blocks, each the mean of as many steps, the highest loss the highest."""
    count = min(width, len(losses))
    ends = [round(i * len(losses) / max(1, count)) for i in range(count + 1)]
    means = [sum(losses[a:b]) / (b - a) for a, b in pairwise(ends)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def _next_steps(report: TrainReport, config: TrainConfig) -> str:
    folders = " ".join(f"--adapter {Path(r.folder).name}={r.folder}" for r in report.roles)
    return (
        f"\nTry one:       lragent chat --model {config.model} --adapter {report.roles[0].folder}\n"
        f"Measure them:  lragent eval --model {config.model} {folders} --samples HELD-OUT.jsonl\n"
        f"Serve them:    lragent check --model {config.model} {folders}\n"
        f"In Python:     Engine({config.model!r}, adapters, sharing={config.trained_for.value!r})"
    )


def train(
    data: Annotated[
        list[Path], typer.Option(help="JSONL of {role, input, output}; may be repeated.")
    ],
    model: Annotated[str, typer.Option(help="Base model: hub name, folder, or smollm2.")],
    out: Annotated[Path, typer.Option(help="Folder that gets one adapter folder a role.")],
    trained_for: Annotated[
        TrainedFor,
        typer.Option(
            "--for", help="Policy to train for: who reads each context, base model, member or role."
        ),
    ] = TrainedFor.NEUTRAL,
    readers: Annotated[
        str, typer.Option(help="For base+lr, the member that reads: first or random.")
    ] = "first",
    acting_text: Annotated[
        str | None,
        typer.Option(
            help="For neutral, prompt text from whose last occurrence a role acts; '' for the last "
            "token. Default: where a tool's output begins, if a quarter of the prompts hold one.",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(help="shared-a: the first role's A, frozen; joint: one A; separate: own A."),
    ] = Mode.SHARED_A,
    roles: Annotated[str, typer.Option(help="Roles, the first first.")] = "plan,act,reflect",
    group: Annotated[
        str, typer.Option(help="Name of the group; the output folder's if none.")
    ] = "",
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = _DEFAULTS["rank"],
    alpha: Annotated[float, typer.Option(help="LoRA alpha.")] = _DEFAULTS["alpha"],
    dropout: Annotated[float, typer.Option(help="LoRA dropout.")] = _DEFAULTS["dropout"],
    targets: Annotated[str, typer.Option(help="Layers with LoRA.")] = "q_proj,v_proj",
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = _DEFAULTS["epochs"],
    max_steps: Annotated[int | None, typer.Option(help="Steps a role, instead of epochs.")] = None,
    batch_size: Annotated[int, typer.Option(help="Samples a forward pass.")] = _DEFAULTS[
        "batch_size"
    ],
    accumulation: Annotated[
        int, typer.Option(help="Forward passes an optimiser step.")
    ] = _DEFAULTS["accumulation"],
    learning_rate: Annotated[
        float, typer.Option(help="Peak learning rate of every role.")
    ] = _DEFAULTS["learning_rate"],
    role_learning_rate: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=RATE", help="Of one role; may be repeated.")
    ] = None,
    warmup: Annotated[float, typer.Option(help="Share of steps to warm up.")] = _DEFAULTS["warmup"],
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.")] = _DEFAULTS[
        "weight_decay"
    ],
    max_length: Annotated[
        int, typer.Option(help="Longer samples (in tokens) are left out.")
    ] = _DEFAULTS["max_length"],
    seed: Annotated[int, typer.Option(help="Of weights, dropout and order.")] = 0,
    save_dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = _DEFAULTS[
        "save_dtype"
    ],
    eval_data: Annotated[
        list[Path] | None, typer.Option(help="Held-out samples to report the loss on.")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = _DEFAULTS[
        "checkpoint_every"
    ],
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over, replacing what is in the folder.")
    ] = False,
    licence: Annotated[str, typer.Option(help="Licence identifier for the model cards.")] = "",
    data_note: Annotated[str, typer.Option(help="Text on the data for the model cards.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; no progress bar.")] = False,
) -> None:
    """Train one LoRA adapter a role. The same command, run again, continues an interrupted run."""
    from pydantic import ValidationError
    from rich.console import Console

    from lragent.cli.errors import INTERRUPTED, message_of, show_error

    settings = {
        name: value
        for name, value in locals().items()
        if name in TrainConfig.model_fields and name not in ("data", "eval_data")
    }
    settings |= {
        "data": tuple(data),
        "eval_data": tuple(eval_data or ()),
        "roles": _split(roles),
        "targets": _split(targets),
        "role_learning_rates": _rates(role_learning_rate or []),
    }
    try:
        config = TrainConfig.model_validate(settings)
    except ValidationError as error:
        show_error(message_of(error) or "")
        raise typer.Exit(2) from error

    from lragent.cli.output import print_json
    from lragent.training import train as run

    try:
        report = run(config, show_progress=not as_json)
    except KeyboardInterrupt:
        show_error("Interrupted. The same command goes on from the last checkpoint.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(report.to_json())
    else:
        console = Console()
        console.print(_table(report))
        console.print(_next_steps(report, config), markup=False, highlight=False, soft_wrap=True)

"""``lragent train-data``: role samples for training, built by program from HotpotQA questions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def train_data(
    data: Annotated[Path, typer.Option(help="Folder with hotpotqa_train.jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write.")],
    seed: Annotated[int, typer.Option(help="The same seed writes the same file.")] = 0,
    max_tokens_per_role: Annotated[
        int, typer.Option(min=1, help="Estimated tokens to keep for each role.")
    ] = 3_000_000,
    arithmetic: Annotated[
        int, typer.Option(min=0, help="Made-up questions about year differences.")
    ] = 150,
    wrong_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share in which reflect first sees a wrong answer.")
    ] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build plan, act and reflect samples for `lragent train`."""
    from lragent.agents.trajectories import build_samples
    from lragent.cli.output import print_json

    report = build_samples(
        data,
        out,
        seed=seed,
        max_tokens_per_role=max_tokens_per_role,
        arithmetic=arithmetic,
        wrong_share=wrong_share,
    )
    if as_json:
        print_json({"out": str(out), **asdict(report)})
        return
    trajectories = ", ".join(f"{count:,} {kind}" for kind, count in report.trajectories.items())
    typer.echo(f"{out}: trajectories: {trajectories}; {report.unused_records:,} questions unused")
    for role, count in report.samples.items():
        typer.echo(f"{role:>8}: {count:,} samples, about {report.tokens[role]:,} tokens")

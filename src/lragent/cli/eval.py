"""``lragent eval``: what sharing does to the answers of a group of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lragent.files import expanded
from lragent.sharing.policies import Policy

REPORT = "report.html"


def eval_(
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=PATH",
            help="Adapter folder of a role, by any name; may be repeated. The bundled adapters and "
            "samples when none is given.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Base model: folder or hub name; SmolLM2-135M-Instruct when not given."),
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option(help="JSONL of {role, input, output}, as for lragent train; repeatable."),
    ] = None,
    trace: Annotated[
        list[Path] | None, typer.Option(help="Trace of lragent run --trace; repeatable.")
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="UTF-8 text for the curve over context lengths, and for everything where there "
            "are no samples or traces; repeatable. The bundled documents when nothing is given."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for measurements and report; a run in it is continued."),
    ] = Path("lragent-eval"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer samples, two policies: minutes on a CPU.")
    ] = False,
    policy: Annotated[
        list[Policy] | None, typer.Option(help="Policy to measure; repeatable. All by default.")
    ] = None,
    per_role: Annotated[int | None, typer.Option(min=2, help="Samples of each role.")] = None,
    length: Annotated[
        list[int] | None, typer.Option(min=1, help="Context length in tokens; repeatable.")
    ] = None,
    limit_nll: Annotated[
        float, typer.Option(min=1, help="Most times isolated's NLL, for each role.")
    ] = 1.03,
    limit_nats: Annotated[
        float, typer.Option(min=0, help="Nats a token that are no loss, whatever the ratio.")
    ] = 0.01,
    limit_exact: Annotated[
        float, typer.Option(min=0, help="Most points of exact outputs to lose, for each role.")
    ] = 0.5,
    save: Annotated[
        bool,
        typer.Option("--save", help="Keep the verdict in the adapters' folders."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of samples and intervals.")] = 0,
    kv_mib: Annotated[
        int | None, typer.Option(min=1, help="Budget of the KV cache in MiB.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr.")
    ] = False,
) -> None:
    """Measure what each sharing policy does to the roles' outputs, and recommend one.

    Writes measurements.jsonl, result.json and report.html. Exits with 0 when all is measured, with
    130 and a report of what there is after Ctrl-C; the same command then goes on.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from lragent import smollm2
    from lragent.agents.demo import demo_adapters
    from lragent.cli.errors import INTERRUPTED, show_error
    from lragent.cli.interrupt import cancel_on_interrupt
    from lragent.cli.output import Stages, print_json, talk_console
    from lragent.cli.role_adapters import parse_pairs

    console = talk_console(as_json)
    with Stages(console) as stages:
        stages("starting")
        from lragent.cli.eval_summary import summary
        from lragent.evaluation import (
            EvalConfig,
            Limit,
            bundled_inputs,
            evaluate,
            read_inputs,
            write_report,
        )
        from lragent.evaluation.config import QUICK
        from lragent.evaluation.report import require_report_packages

        require_report_packages()
        folders = {
            role: expanded(path) for role, path in parse_pairs(adapter or [], known=None).items()
        }
        given = {"policies": policy, "per_role": per_role, "lengths": length}
        amounts = (QUICK if quick else {}) | {k: v for k, v in given.items() if v is not None}
        config = EvalConfig(
            model=model or smollm2.NAME,
            adapters=folders or demo_adapters(),
            limit=Limit(nll_ratio=limit_nll, nll_nats=limit_nats, exact_points=limit_exact),
            seed=seed,
            kv_bytes=None if kv_mib is None else kv_mib << 20,
            **amounts,
        )
        if samples or trace or text:
            inputs = read_inputs(samples or [], trace or [], text or [], tuple(config.adapters))
        else:
            inputs = bundled_inputs(tuple(config.adapters))

    def show(done: int, total: int) -> None:
        bar.update(task, description="measuring", completed=done, total=total)

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bar, cancel_on_interrupt() as cancel:
        task = bar.add_task(f"loading {config.model}", total=None)
        result = evaluate(config, inputs, out, show, cancel)
    write_report(result, out / REPORT)
    if save and result.verdict is not None:
        result.verdict.save(config)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        console.print(summary(result))
        console.print(f"Report: {out / REPORT}", soft_wrap=True)
    if not result.complete:
        show_error("Interrupted; the same command goes on from here.")
        raise typer.Exit(INTERRUPTED)

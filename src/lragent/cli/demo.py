"""``lragent demo``: three agents on one cache, and what each sharing policy costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lragent.sharing.policies import Policy


def demo(
    questions: Annotated[
        int, typer.Option(min=1, help="How many of the bundled questions to answer.")
    ] = 1,
    model: Annotated[
        str | None,
        typer.Option(help="Base model: folder or hub name; SmolLM2-135M-Instruct when not given."),
    ] = None,
    adapters_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with adapters plan, act and reflect, instead of the bundled."),
    ] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="Most steps a question.")] = 6,
    kv_mib: Annotated[int, typer.Option(min=1, help="Budget of each KV cache in MiB.")] = 1024,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; steps go to stderr.")
    ] = False,
) -> None:
    """Answer questions with three LoRA agents, then compare the sharing policies.

    The agents' steps are shown as they happen under base+lr. Exits with 0 when everything ran,
    with 130 and what there is so far after Ctrl-C.
    """
    from rich.rule import Rule

    from lragent.agents.demo import DemoQuestion, demo_adapters, demo_questions, demo_store
    from lragent.agents.options import WorkflowOptions
    from lragent.cli.backends import base_model_name
    from lragent.cli.demo_report import DemoReport
    from lragent.cli.errors import INTERRUPTED, show_error
    from lragent.cli.interrupt import cancel_on_interrupt
    from lragent.cli.output import Stages, print_json, talk_console
    from lragent.cli.role_adapters import all_folders_in
    from lragent.cli.steps import StepPrinter

    console = talk_console(as_json)
    folders = demo_adapters() if adapters_dir is None else all_folders_in(adapters_dir)
    store = demo_store()
    asked = demo_questions()[:questions]
    name = base_model_name(model)

    def announce(question: DemoQuestion) -> None:
        stages.stop()
        console.print(Rule(question.question, align="left"))

    with Stages(console) as stages, cancel_on_interrupt() as cancel:
        stages("starting")
        from lragent.agents.policy_comparison import PolicyComparison

        shown = Policy.BASE_LR
        options = WorkflowOptions(max_steps=max_steps)
        comparison = PolicyComparison(name, folders, store, options, kv_mib << 20, stages)
        answers = comparison.answer(shown, asked, cancel, announce, StepPrinter(console))
        report = DemoReport(name, len(store.documents), shown, answers)
        for outcome in comparison.outcomes(answers, cancel):
            report.outcomes.append(outcome)
        interrupted = cancel.is_set()
    if as_json:
        print_json(report.to_json())
    else:
        console.print(report)
    if interrupted:
        show_error("Interrupted.")
        raise typer.Exit(INTERRUPTED)

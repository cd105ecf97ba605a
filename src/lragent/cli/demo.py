"""``lragent demo``: three agents on one cache, and what each sharing policy costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lragent import smollm2
from lragent.sharing.policies import Policy

if TYPE_CHECKING:
    from lragent.agents.hand_overs import HandOver
    from lragent.engine import Engine

COMPARED = (Policy.NEUTRAL, Policy.ISOLATED, Policy.BASE_LR)
ROUNDS = 2
_ROOM = 1024  # tokens of the model's limit that are left for the turns


def context_tokens(engine: Engine, text: str, count: int) -> list[int]:
    """The first `count` tokens of a text, or as many as the model holds beside the turns."""
    assert engine.tokenizer is not None
    most = max(64, engine.shape.max_positions - _ROOM)
    ids = engine.tokenizer(text, verbose=False)["input_ids"]
    return list(ids)[: min(count, most)]


def demo(
    questions: Annotated[
        int, typer.Option(min=1, help="How many of the bundled questions to answer.")
    ] = 1,
    model: Annotated[
        str | None,
        typer.Option(help="Base model: folder or hub name; smollm2 when not given."),
    ] = None,
    adapters_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with adapters plan, act and reflect, instead of the bundled."),
    ] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="Most steps a question.")] = 6,
    context: Annotated[
        int, typer.Option(min=64, help="Tokens of the document that agents hand over.")
    ] = 2048,
    policy: Annotated[
        list[Policy] | None,
        typer.Option(
            help="Policy to compare; repeat it. isolated, base+lr, and before them neutral for "
            "adapters that were trained for it when none is given."
        ),
    ] = None,
    kv_mib: Annotated[int, typer.Option(min=1, help="Budget of each KV cache in MiB.")] = 1024,
    html: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("lragent-demo.html"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; steps go to stderr.")
    ] = False,
) -> None:
    """Show three LoRA agents on one KV cache, with times, tables and a report in HTML.

    They take turns on a long document, each on a shared cache and on its own. Then they answer
    questions under neutral, for which the bundled adapters were trained (other adapters: base+lr),
    and the same run is replayed under each policy. Exits with 0 when everything ran, with 130 and
    what there is so far after Ctrl-C.
    """
    from dataclasses import asdict

    from rich.rule import Rule

    from lragent.agents.demo import (
        DemoQuestion,
        demo_adapters,
        demo_questions,
        demo_store,
        demo_text,
    )
    from lragent.agents.options import WorkflowOptions
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
    name = model or smollm2.NAME

    def announce(question: DemoQuestion) -> None:
        stages.stop()
        console.print(Rule(question.question, align="left"))

    with Stages(console) as stages, cancel_on_interrupt() as cancel:
        stages("starting")
        from lragent.agents.hand_overs import hand_over_engine, hand_overs
        from lragent.agents.policy_comparison import PolicyComparison, best_policy
        from lragent.cli.demo_page import write_page
        from lragent.cli.hand_over_table import HandOverTable, hand_over_sentence

        shown = best_policy(folders)
        stages(f"loading {name}")
        turns: list[HandOver] = []
        with hand_over_engine(name, folders, shown, kv_mib << 20) as engine:
            stages.stop()
            tokens = context_tokens(engine, demo_text(), context)
            table = HandOverTable(console, tuple(folders))
            table.head(len(tokens), shown)
            for turn in hand_overs(engine, tuple(folders), tokens, ROUNDS, cancel):
                turns.append(turn)
                table(turn)
        sentence = hand_over_sentence(turns) if turns else ""
        console.print(f"\n{sentence}\n", style="bold green", markup=False)
        options = WorkflowOptions(max_steps=max_steps)
        comparison = PolicyComparison(
            name, folders, store, options, kv_mib << 20, stages, policy or COMPARED
        )
        answers = comparison.answer(shown, asked, cancel, announce, StepPrinter(console))
        report = DemoReport(name, len(store.documents), shown, answers)
        for outcome in comparison.outcomes(answers, cancel):
            report.outcomes.append(outcome)
        interrupted = cancel.is_set()
    write_page(report, turns, sentence, html)
    if as_json:
        print_json(report.to_json() | {"hand_overs": [asdict(turn) for turn in turns]})
    else:
        console.print(report)
        console.print(f"\nReport with pictures: {html.resolve()}", soft_wrap=True, markup=False)
    if interrupted:
        show_error("Interrupted.")
        raise typer.Exit(INTERRUPTED)

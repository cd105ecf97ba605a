"""``lragent eval-task``: questions that the agents answer themselves, under each policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lragent.sharing.policies import Policy

if TYPE_CHECKING:
    from rich.table import Table

    from lragent.evaluation.tasks import TaskResult


def eval_task(
    task: Annotated[str, typer.Argument(help="hotpotqa, 2wiki, musique or scienceqa.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of its questions; default $LRAGENT_DATA.")
    ] = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="Questions from the hub, by the datasets library.")
    ] = False,
    questions: Annotated[int, typer.Option(min=2, help="How many.")] = 100,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=PATH",
            help="Adapter folder of plan, act or reflect; repeatable. The bundled ones by default.",
        ),
    ] = None,
    adapters_dir: Annotated[
        Path | None, typer.Option(help="Folder with the roles' adapters.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Base model: folder or hub name; SmolLM2-135M-Instruct when not given."),
    ] = None,
    policy: Annotated[
        list[Policy] | None,
        typer.Option(help="Policy to compare with isolated; repeatable. All by default."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the answers; a run in it is continued.")
    ] = Path("lragent-eval-task"),
    at_once: Annotated[int, typer.Option(min=1, help="Conversations side by side.")] = 32,
    kv_mib: Annotated[
        int | None, typer.Option(min=1, help="Budget of the KV cache in MiB.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of questions and the intervals.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr.")
    ] = False,
) -> None:
    """Let plan, act and reflect answer questions under each policy, and compare right answers.

    Each policy's answers are kept in a file of --out, and the comparison in result.json.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from lragent import smollm2
    from lragent.agents.demo import demo_adapters
    from lragent.cli.errors import INTERRUPTED, show_error
    from lragent.cli.interrupt import cancel_on_interrupt
    from lragent.cli.output import print_json, talk_console
    from lragent.cli.role_adapters import given_folders
    from lragent.evaluation.tasks import Agents, answer_questions, compare, read_task
    from lragent.files import write_atomically

    console = talk_console(as_json)
    folders = given_folders(adapter, adapters_dir) or demo_adapters()
    asked = read_task(task, data, questions, seed, hub=hub)
    arms = dict.fromkeys([Policy.ISOLATED, *(policy or Policy)])
    found = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as bar, cancel_on_interrupt() as cancel:
        for arm in arms:
            shown = bar.add_task(arm.value, total=len(asked.questions))
            agents = Agents(
                model or smollm2.NAME,
                folders,
                arm,
                at_once,
                engine={} if kv_mib is None else {"kv_bytes": kv_mib << 20},
            )
            found[arm.value] = answer_questions(
                asked,
                agents,
                out / f"{task}-{arm.value}.jsonl",
                lambda done, total, shown=shown: bar.update(shown, completed=done, total=total),
                cancel,
            )
            if cancel.is_set():
                show_error("Interrupted; the same command goes on from here.")
                raise typer.Exit(INTERRUPTED)
    reference = Policy.ISOLATED.value
    references = {name: [reference] for name in found if name != reference}
    result = compare(task, found, references, seed)
    write_atomically(out / f"{task}.json", result.model_dump_json(indent=1) + "\n")
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        console.print(_table(result))


def _table(result: TaskResult) -> Table:
    from rich.table import Table

    from lragent.cli.eval_summary import shown

    table = Table(title=f"{result.task}, {result.questions} questions, 95 % intervals", box=None)
    for column in ("policy", "right, %", "F1", "finished, %", "loops, %", "difference", "p"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for arm in result.arms:
        against = next(iter(arm.differences), None)
        table.add_row(
            arm.arm,
            shown(arm.exact, 1),
            shown(arm.f1, 1),
            f"{arm.finished.value:.1f}",
            f"{arm.loops.value:.1f}",
            "" if against is None else shown(against.exact, 1),
            "" if against is None else f"{against.p:.3f}",
        )
    return table

"""``lragent run``: a workflow on the user's question and documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lragent.sharing.policies import Policy

_SERVER = "A server instead of the embedded engine"


def run(
    question: Annotated[str, typer.Option(help="What to answer.")],
    docs: Annotated[Path, typer.Option(help="Folder with .md and .txt files to search.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Adapter folder of plan, act or reflect; may be repeated. With --base-url, the "
            "name that the server has for it. Roles without one use the base model.",
        ),
    ] = None,
    adapters_dir: Annotated[
        Path | None, typer.Option(help="Folder that holds adapter folders named after the roles.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Base model: folder or hub name. When not given, smollm2, with the "
            "bundled adapters if no others are named."
        ),
    ] = None,
    sharing: Annotated[
        Policy | None, typer.Option(help="What the adapters share; isolated when not given.")
    ] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="Steps, reflect's included.")] = 15,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Nucleus mass.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    kv_mib: Annotated[
        int | None, typer.Option(min=1, help="Budget of the KV cache in MiB.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Write the run as JSON to this file.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="OpenAI-compatible address, up to /v1.", rich_help_panel=_SERVER),
    ] = None,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="OPENAI_API_KEY",
            show_default=False,
            help="Sent as bearer token.",
            rich_help_panel=_SERVER,
        ),
    ] = "none",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the trace as JSON; steps go to stderr.")
    ] = False,
) -> None:
    """Let plan, act and reflect answer a question from a folder of documents.

    Exits with 0 when there is an answer, 1 when there is none, 130 after Ctrl-C.
    """
    from lragent.agents import DocumentStore, PlanActReflect, Role, RunTrace, WorkflowOptions
    from lragent.cli import backends
    from lragent.cli.interrupt import cancel_on_interrupt
    from lragent.cli.output import Stages, print_json, talk_console
    from lragent.cli.role_adapters import given_folders, parse_pairs
    from lragent.cli.run_summary import exit_code, summary
    from lragent.cli.steps import StepPrinter

    if not question.strip():
        raise typer.BadParameter("the question is empty", param_hint="--question")
    console = talk_console(as_json)
    stages = Stages(console)
    if base_url is None:
        folders = given_folders(adapter, adapters_dir)
        opened = backends.embedded(model, folders, sharing or Policy.ISOLATED, kv_mib, stages)
    else:
        backends.refuse_local_options(adapters_dir=adapters_dir, sharing=sharing, kv_mib=kv_mib)
        opened = backends.remote(base_url, api_key, model, parse_pairs(adapter or []), stages)
    store = DocumentStore.from_folder(docs)

    with stages, cancel_on_interrupt() as cancel, opened as served:
        stages.stop()
        missing = [role.value for role in Role if role.value not in served.roles]
        if missing:
            console.print(f"The base model writes for {', '.join(missing)}.", style="dim")
        options = WorkflowOptions(
            adapters={role: served.roles.get(role.value) for role in Role},
            max_steps=max_steps,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        workflow = PlanActReflect(served.backend, store, options)
        result = workflow.run(question, on_event=StepPrinter(console), cancel=cancel)

    record = RunTrace.of(result, model=served.model, sharing=served.sharing)
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        console.print(summary(result))
        if base_url is None and sharing is None and len(served.roles) > 1:
            console.print(
                "Each adapter read everything for itself. With --sharing they work on one cache: "
                "neutral for adapters that were trained for it, base+lr for others.",
                style="dim",
            )
    if trace is not None:
        record.save(trace)
    if code := exit_code(result):
        raise typer.Exit(code)

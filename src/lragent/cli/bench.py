"""``lragent bench``: what a running server gains, or would gain, from sharing."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lragent.bench import BenchResult, BenchServer

REPORT = "report.html"
RESULT = "result.json"


def bench(
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible address, up to /v1.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Name that the server has for an adapter; repeat it. All that the server lists "
            "as adapters when none is given."
        ),
    ] = None,
    context: Annotated[int, typer.Option(min=16, help="Tokens of each context, about.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, help="Contexts for each pair.")] = 5,
    sessions: Annotated[int, typer.Option(min=0, help="Workflows at once; 0 for none.")] = 4,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each workflow.")] = 6,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the contexts; a new one when not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for result.json and report.html.")] = Path(
        "lragent-bench"
    ),
    api_key: Annotated[
        str,
        typer.Option(envvar="OPENAI_API_KEY", show_default=False, help="Sent as bearer token."),
    ] = "none",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr.")
    ] = False,
) -> None:
    """Measure hand-overs between the adapters of a server, and what sharing gains there.

    Any OpenAI-compatible server will do. Each pair is measured on contexts that the server has not
    seen: new, taken over by the other adapter, and sent again by the same one.
    """
    import json
    from importlib.util import find_spec

    from lragent.agents.backend import BackendError
    from lragent.bench import BenchConfig, BenchServer, judge, measure
    from lragent.bench.report import write_report
    from lragent.cli.errors import INTERRUPTED, show_error
    from lragent.cli.interrupt import cancel_on_interrupt
    from lragent.cli.output import Stages, print_json, talk_console

    console = talk_console(as_json)
    server = BenchServer(base_url, api_key)
    names = _adapters(server, adapter)
    config = BenchConfig(
        context_tokens=context, rounds=rounds, sessions=sessions, turns=turns,
        seed=secrets.randbits(32) if seed is None else seed,
    )  # fmt: skip
    with Stages(console) as stages, cancel_on_interrupt() as cancel:
        result = measure(server, names, config, stages, cancel)
    if not result.pairs:
        raise BackendError("interrupted before the first pair was measured")
    verdict = judge(result)
    plain = {"verdict": verdict.outcome.value, "sentence": verdict.sentence} | result.to_json()
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULT).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    if find_spec("jinja2"):
        write_report(result, verdict, out / REPORT)
    else:
        console.print("No report.html: that needs pip install 'lragent[eval]'.", markup=False)
    if as_json:
        print_json(plain)
    else:
        for part in _tables(result):
            console.print(part)
        console.print(f"\n{verdict.sentence}", style="bold", markup=False)
        for line in verdict.advice:
            console.print(line, markup=False)
        console.print(f"Written to {out}", soft_wrap=True, markup=False)
    if cancel.is_set():
        show_error("Interrupted.")
        raise typer.Exit(INTERRUPTED)


def _adapters(server: BenchServer, given: list[str] | None) -> tuple[str, ...]:
    from lragent.adapters.names import near_misses
    from lragent.agents.backend import BackendError

    known = server.models()
    names = tuple(dict.fromkeys(given or [name for name, parent in known.items() if parent]))
    for name in names:
        if name not in known:
            raise BackendError(f"{server.base_url} has no model {name!r}{near_misses(name, known)}")
    if len(names) < 2:
        listed = ", ".join(known) or "none"
        raise typer.BadParameter(
            f"two adapters are needed; the server lists {listed}", param_hint="--adapter"
        )
    return names


def _tables(result: BenchResult) -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    pairs = Table(title="Median time to the first token (ms)", title_justify="left")
    for column in ("from", "to"):
        pairs.add_column(column, overflow="fold")
    for column in ("tokens", "new", "hand-over", "own again", "cached"):
        pairs.add_column(column, justify="right")
    for p in result.pairs:
        times = [f"{1000 * s:.1f}" for s in (p.cold_s, p.hand_over_s, p.warm_s)]
        names = (Text(p.writer), Text(p.reader))
        pairs.add_row(*names, f"{p.prompt_tokens:,}", *times, share(p.hand_over_cached))
    if result.workflow is None or result.single is None:
        return [pairs]
    flow = Table(title="Workflow", title_justify="left")
    flow.add_column("agents", overflow="fold")
    for column in ("tokens/s", "median TTFT (ms)", "cached"):
        flow.add_column(column, justify="right")
    for w in (result.workflow, result.single):
        speed = (f"{w.tokens_per_s:.1f}", f"{1000 * w.ttft_s:.1f}", share(w.cached))
        flow.add_row(Text(", ".join(w.agents)), *speed)
    return [pairs, flow]

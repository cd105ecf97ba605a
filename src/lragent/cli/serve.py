"""``lragent serve``: the embedded engine over HTTP."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lragent import smollm2
from lragent.files import expanded
from lragent.sharing.policies import Policy

_LIMITS = "Limits"

_KERNEL_CACHES = {"LRU_CACHE_CAPACITY": "256", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}
"""Kernels that PyTorch and oneDNN keep, one for each layer's shape and number of tokens. On a CPU
each takes half a megabyte or more and is made in less than a millisecond; by default they keep
1,024 each, which steps of ever new lengths fill."""


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            help="Base model: folder or hub name. When not given, smollm2, with the "
            "bundled adapters if no others are named."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Adapter folder and its name; may be repeated."),
    ] = None,
    sharing: Annotated[Policy, typer.Option(help="What the adapters share.")] = Policy.ISOLATED,
    kv_mib: Annotated[
        int | None, typer.Option(min=1, help="Budget of the KV cache in MiB.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="LRAGENT_API_KEY", show_default=False, help="Requests to /v1 must bring it."
        ),
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="What requests call the base model.")
    ] = None,
    runtime_adapters: Annotated[
        bool, typer.Option(help="Let clients load and unload adapters, from this machine's disk.")
    ] = False,
    max_lora_rank: Annotated[
        int | None, typer.Option(min=1, help="Largest rank of adapters that are loaded later.")
    ] = None,
    lr_slots: Annotated[
        int | None, typer.Option(min=1, help="LR slots in a page, for adapters loaded later.")
    ] = None,
    show_texts: Annotated[
        bool, typer.Option(help="Show answers on the page, not only numbers.")
    ] = True,
    max_num_seqs: Annotated[
        int, typer.Option(min=1, help="Requests that run at once.", rich_help_panel=_LIMITS)
    ] = 32,
    max_waiting: Annotated[
        int,
        typer.Option(min=0, help="Requests that wait; more get 429.", rich_help_panel=_LIMITS),
    ] = 256,
    max_body_mib: Annotated[
        int, typer.Option(min=1, help="Longest body of a request.", rich_help_panel=_LIMITS)
    ] = 4,
    grace: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds for running requests when it stops.", rich_help_panel=_LIMITS
        ),
    ] = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say as JSON where it listens; all else goes to stderr.")
    ] = False,
) -> None:
    """Serve a model and its adapters over OpenAI's HTTP, with a page that shows the cache.

    Ends with 0 after Ctrl-C or SIGTERM; running requests may finish within the grace time.
    """
    from lragent.cli.output import Stages, print_json, talk_console
    from lragent.cli.role_adapters import parse_pairs

    for variable, most in _KERNEL_CACHES.items():  # read when the first kernel is made
        os.environ.setdefault(variable, most)
    console = talk_console(as_json)
    named = parse_pairs(adapter or [], known=None)
    folders = {name: expanded(path) for name, path in named.items()}
    with Stages(console) as stages:
        stages("starting")
        from lragent.agents.demo import demo_adapters
        from lragent.engine import Engine
        from lragent.server import ServerOptions, create_app
        from lragent.server.run import bind
        from lragent.server.run import serve as run

        if model is None and not folders:
            folders = demo_adapters()
        name = model or smollm2.NAME
        base = served_model_name or name
        if base in folders:
            raise typer.BadParameter(f"{base!r} is the base model's name", param_hint="--adapter")
        options = ServerOptions(
            base_model=base,
            adapter_paths={name: str(path) for name, path in folders.items()},
            api_key=api_key or None,
            max_body_bytes=max_body_mib << 20,
            runtime_adapters=runtime_adapters,
            show_texts=show_texts,
            grace_s=grace,
        )
        at = bind(host, port)  # before the model, whose loading takes a while
        stages(f"loading {name}")
        with Engine(
            name,
            folders,
            sharing,
            kv_bytes=None if kv_mib is None else kv_mib << 20,
            max_lora_rank=max_lora_rank,
            lr_slots=lr_slots,
            max_num_seqs=max_num_seqs,
            max_waiting=max_waiting,
            background=True,
        ) as engine:
            app = create_app(engine, options)
            stages.stop()

            def ready(address: str) -> None:
                if as_json:
                    print_json({"url": address, "model": base, "adapters": [*folders]})
                    return
                console.print(
                    f"{base} and {len(folders)} adapters under {sharing.value}: "
                    f"{address}/v1 for clients, {address}/ shows the cache. Ctrl-C stops.",
                    soft_wrap=True,
                    markup=False,
                )

            run(app, at, ready)

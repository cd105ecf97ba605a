"""The language model behind `lragent run`: an engine of this process, or a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from lragent import smollm2
from lragent.adapters.names import near_misses
from lragent.agents import BackendError, ChatBackend
from lragent.cli.role_adapters import ROLES
from lragent.sharing.policies import Policy

DEFAULT_MODEL = smollm2.NAME


@dataclass(frozen=True)
class Served:
    """A backend, the adapter of each role that has one, and what to note in the trace."""

    backend: ChatBackend
    roles: Mapping[str, str]
    model: str
    sharing: str | None


@contextmanager
def embedded(
    model: str | None,
    folders: Mapping[str, Path],
    policy: Policy,
    kv_mib: int | None,
    on_stage: Callable[[str], None],
) -> Iterator[Served]:
    """Load a model and adapters into this process; the bundled ones when nothing is named."""
    on_stage("starting")
    from lragent.agents.demo import demo_adapters
    from lragent.agents.engine_backend import EngineBackend
    from lragent.engine import Engine

    if model is None and not folders:
        folders = demo_adapters()
    name = model or DEFAULT_MODEL
    on_stage(f"loading {name}")
    kv_bytes = None if kv_mib is None else kv_mib << 20
    with Engine(name, folders, policy, kv_bytes=kv_bytes) as engine:
        roles = {role: role for role in folders}
        yield Served(EngineBackend(engine), roles, name, policy.value)


@contextmanager
def remote(
    base_url: str,
    api_key: str,
    model: str | None,
    roles: Mapping[str, str],
    on_stage: Callable[[str], None],
) -> Iterator[Served]:
    """A server that knows the base model and the adapters by the names given.

    Raises BackendError when it does not answer or does not list a name.
    """
    import openai

    from lragent.agents.openai_backend import OpenAIBackend

    on_stage(f"asking {base_url} for its models")
    try:
        with openai.OpenAI(base_url=base_url, api_key=api_key, timeout=20, max_retries=0) as client:
            known = [entry.id for entry in client.models.list()]
    except openai.OpenAIError as error:
        raise BackendError(f"{base_url} does not list its models: {error}") from error
    for name in (*roles.values(), *([] if model is None else [model])):
        if name not in known:
            raise BackendError(f"{base_url} has no model {name!r}{near_misses(name, known)}")
    if model is None and set(roles) != set(ROLES):
        if not known:
            raise BackendError(f"{base_url} lists no model")
        model = known[0]
    backend = OpenAIBackend(base_url, base_model=model or "", api_key=api_key)
    yield Served(backend, roles, model or roles[ROLES[0]], None)


def refuse_local_options(**given: object) -> None:
    """Usage error for options that only the embedded engine has."""
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if named:
        raise typer.BadParameter(
            f"the server decides on {', '.join(named)}; leave it out", param_hint="--base-url"
        )

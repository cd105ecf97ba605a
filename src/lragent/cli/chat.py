"""``lragent chat``: one prompt or a conversation with one adapter."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lragent.files import expanded

if TYPE_CHECKING:
    from lragent.agents import ChatBackend

NAME = "adapter"


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to say. Without it a conversation, until Ctrl-D."),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="Adapter folder; with --base-url, the name that the server has for it. The base "
            "model when not given."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model: folder or hub name; smollm2 when not given.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible address, up to /v1.")
    ] = None,
    api_key: Annotated[
        str,
        typer.Option(envvar="OPENAI_API_KEY", show_default=False, help="Sent as bearer token."),
    ] = "none",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answer as JSON; needs a prompt.")
    ] = False,
) -> None:
    """Talk to one adapter, or to the base model. Answers are streamed.

    A prompt that is piped in counts as one.
    """
    from lragent.agents import CallParams
    from lragent.cli import backends
    from lragent.cli.output import Stages, print_json, talk_console
    from lragent.sharing.policies import Policy

    prompt = _piped() if prompt is None else prompt
    if prompt is not None and not prompt.strip():
        raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
    if prompt is None and as_json:
        raise typer.BadParameter("a conversation has no JSON; give a prompt", param_hint="--json")
    console = talk_console(as_json)
    stages = Stages(console)
    params = CallParams(max_tokens, temperature=temperature, seed=seed)
    messages: list[dict[str, str]] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    if base_url is None:
        folders = {} if adapter is None else {NAME: expanded(adapter)}
        # Named even where it is the default, so that the bundled adapters stay out.
        opened = backends.embedded(
            model or backends.DEFAULT_MODEL, folders, Policy.ISOLATED, None, stages
        )
    else:
        roles = {} if adapter is None else {NAME: adapter}
        opened = backends.remote(base_url, api_key, model, roles, stages)
    with stages, opened as served:
        stages.stop()
        who = served.roles.get(NAME)
        if prompt is not None:
            answer = _turn(console, served.backend, messages, prompt, who, params)
            if as_json:
                print_json(answer)
            return
        while True:
            try:
                said = input("> ").strip()
            except EOFError:
                console.print()
                return
            if said:
                _turn(console, served.backend, messages, said, who, params)


def _piped() -> str | None:
    return None if sys.stdin.isatty() else sys.stdin.read().strip()


def _turn(
    console: Any,
    backend: ChatBackend,
    messages: list[dict[str, str]],
    said: str,
    adapter: str | None,
    params: Any,
) -> dict[str, Any]:
    """One question and its answer, which both stay in `messages`."""
    messages.append({"role": "user", "content": said})
    parts, usage, reason = [], None, None
    for chunk in backend.complete(
        messages, adapter=adapter, params=params, continue_final_message=False
    ):
        parts.append(chunk.text)
        usage, reason = chunk.usage or usage, chunk.finish_reason or reason
        console.print(chunk.text, end="", markup=False, soft_wrap=True)
    text = "".join(parts)
    messages.append({"role": "assistant", "content": text})
    answer: dict[str, Any] = {"text": text, "finish_reason": reason}
    if usage is not None:
        answer |= {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "generated_tokens": usage.generated_tokens,
        }
        reused = "" if usage.cached_tokens is None else f", {usage.cached_tokens} of them cached"
        console.print(f"\n({usage.prompt_tokens} prompt tokens{reused})", style="dim")
    return answer

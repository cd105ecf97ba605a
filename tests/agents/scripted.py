"""A backend that answers from a list, for workflow tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lragent.agents import CallChunk, CallParams, CallUsage
from lragent.agents.prompts import Message

Reply = str | Exception | Callable[[], str]


@dataclass(frozen=True)
class Call:
    prompt: str
    adapter: str | None
    params: CallParams


class ScriptedBackend:
    """Gives its replies in order, in two pieces each; characters count as tokens."""

    def __init__(self, *replies: Reply, finish_reason: str = "stop", repeat: int = 1) -> None:
        self.replies = list(replies) * repeat
        self.calls: list[Call] = []
        self.finish_reason = finish_reason
        self.closed = 0

    def complete(
        self,
        messages: Sequence[Message],
        *,
        adapter: str | None,
        params: CallParams,
        continue_final_message: bool = True,
    ) -> Iterator[CallChunk]:
        assert continue_final_message
        assert [m["role"] for m in messages] == ["system", "user", "assistant"]
        prompt = "".join(m["content"] for m in messages)
        before = self.calls[-1].prompt if self.calls else ""
        self.calls.append(Call(prompt, adapter, params))
        reply = self.replies[len(self.calls) - 1]
        try:
            if isinstance(reply, Exception):
                raise reply
            text = reply if isinstance(reply, str) else reply()
            for piece in (text[:3], text[3:]):
                if piece:
                    yield CallChunk(piece)
            yield CallChunk(
                finish_reason=self.finish_reason,
                usage=CallUsage(len(prompt), len(text), len(before)),
            )
        finally:
            self.closed += 1


def step(thought: str, tool: str, argument: str) -> tuple[str, str, str]:
    """The three replies of one step."""
    return f" {thought}", f" {tool}", argument

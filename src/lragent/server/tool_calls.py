"""Calls of tools in an answer's text, in the form that Qwen's and Hermes' chat templates ask for.

`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, once or several times. Any other text, a
call that is not of that form too, stays in the answer.
"""

from __future__ import annotations

import json
import uuid

from lragent.server.protocol.chat import CalledFunction, ToolCall

_BEGIN, _END = "<tool_call>", "</tool_call>"


class ToolCallReader:
    """Takes the calls out of one answer's text as it comes."""

    def __init__(self) -> None:
        self._rest = ""
        self.count = 0

    def push(self, text: str, ended: bool) -> tuple[str, list[ToolCall]]:
        """The text that may be shown now, and the calls that are complete."""
        rest, shown, calls = self._rest + text, "", []
        while True:
            before, begin, inside = rest.partition(_BEGIN)
            if not begin:
                held = 0 if ended else _begun(rest)
                shown, self._rest = shown + rest[: len(rest) - held], rest[len(rest) - held :]
                break
            shown += before
            body, end, after = inside.partition(_END)
            if not end:
                self._rest = "" if ended else begin + inside
                shown += begin + inside if ended else ""
                break
            call = _call(body)
            if call is None:
                shown += begin + body + end
            else:
                calls.append(call)
            rest = after
        self.count += len(calls)
        return shown, calls


def _begun(text: str) -> int:
    """Characters at the end of a text that may be the beginning of a call."""
    lengths = range(len(_BEGIN) - 1, 0, -1)
    return next((length for length in lengths if text.endswith(_BEGIN[:length])), 0)


def _call(body: str) -> ToolCall | None:
    try:
        match json.loads(body):
            case {"name": str(name), "arguments": dict(arguments)}:
                function = CalledFunction(name=name, arguments=json.dumps(arguments))
                return ToolCall(id=f"call_{uuid.uuid4().hex}", function=function)
    except (ValueError, RecursionError):
        pass
    return None

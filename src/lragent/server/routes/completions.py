"""``/v1/completions``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from lragent.engine import Chunk, Completion
from lragent.server.answering import Form, Prompt, respond
from lragent.server.logprobs import LogprobWriter
from lragent.server.protocol import completions
from lragent.server.protocol.common import Answer
from lragent.server.state import ServerState, State

router = APIRouter()

_DEFAULT_TOKENS = 16
"""OpenAI's."""


@router.post("/v1/completions", response_model=completions.CompletionAnswer)
async def complete(
    body: completions.CompletionBody, http: Request, state: State
) -> Answer | Response:
    """Continue prompts, all at once or as a stream of events."""
    return await respond(body, _CompletionForm(body, state), http, state)


class _CompletionForm(Form):
    prefix = "cmpl"
    whole = completions.CompletionAnswer
    event = completions.CompletionAnswer

    def __init__(self, body: completions.CompletionBody, state: ServerState):
        self._body = body
        self._writer = LogprobWriter(state.engine.tokenizer)
        self._written: Counter[int] = Counter()  # characters of each answer so far
        self.count = len(body.prompts)
        self.logprobs = body.logprobs

    def prompts(self) -> Sequence[Prompt]:
        return self._body.prompts

    def most_tokens(self, prompt: Prompt, room: int) -> int:
        return self._body.max_tokens or _DEFAULT_TOKENS

    def first_piece(self, index: int) -> None:
        return None

    def piece(self, index: int, chunk: Chunk) -> completions.CompletionChoice:
        return self.choice(index, chunk)

    def choice(self, index: int, answer: Completion | Chunk) -> completions.CompletionChoice:
        logprobs = None
        if self.logprobs is not None:
            logprobs = self._writer.for_completion(answer.logprobs, self._written[index])
            self._written[index] += len(answer.text)
        return completions.CompletionChoice(
            index=index,
            text=answer.text,
            logprobs=logprobs,
            finish_reason=answer.finish_reason,  # pyright: ignore[reportArgumentType]
            stop_reason=answer.stop_reason,
        )

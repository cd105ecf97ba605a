"""``/v1/completions``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from lragent.engine import Chunk, Completion, TokenLogprob
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
        super().__init__()
        self._body = body
        self._tokenizer = state.engine.tokenizer
        self._writer = LogprobWriter(state.engine.tokenizer)
        self._written: Counter[int] = Counter()  # characters of each answer's tokens so far
        self._to_echo = set(range(len(body.prompts) * (body.n or 1)) if body.echo else ())
        self.count = len(body.prompts)
        self.logprobs = body.logprobs

    def prompts(self) -> Sequence[Prompt]:
        return self._body.prompts

    def most_tokens(self, prompt: Prompt, room: int) -> int:
        given = self._body.max_tokens
        return _DEFAULT_TOKENS if given is None else max(1, given)

    def first_piece(self, index: int) -> None:
        return None

    def piece(self, index: int, chunk: Chunk) -> completions.CompletionChoice:
        return self.choice(index, chunk)

    def choice(self, index: int, answer: Completion | Chunk) -> completions.CompletionChoice:
        if self._body.max_tokens == 0:  # the engine makes one token at least
            reason = answer.finish_reason and "length"
            answer = replace(
                answer, text="", token_ids=(), logprobs=(), finish_reason=reason, stop_reason=None
            )
        text, ids, tokens = answer.text, answer.token_ids, answer.logprobs
        if index in self._to_echo:
            self._to_echo.remove(index)
            prompt_text, prompt_ids, prompt = self._prompt(index // (self._body.n or 1))
            text, ids, tokens = prompt_text + text, prompt_ids + ids, prompt + tokens
        logprobs = None
        if self.logprobs is not None:
            logprobs = self._writer.for_completion(ids, tokens, self._written[index])
            self._written[index] += sum(map(len, logprobs.tokens))
        return completions.CompletionChoice(
            index=index,
            text=text,
            logprobs=logprobs,
            finish_reason=answer.finish_reason,  # pyright: ignore[reportArgumentType]
            stop_reason=answer.stop_reason,
        )

    def _prompt(self, place: int) -> tuple[str, tuple[int, ...], tuple[TokenLogprob | None, ...]]:
        """Text, token ids and, if they are wanted, log-probabilities of a prompt."""
        request, text = self.requests[place], self._body.prompts[place]
        if not isinstance(text, str):
            text = "" if self._tokenizer is None else self._tokenizer.decode(text)
            assert isinstance(text, str)
        return text, request.prompt_ids, request.completion().prompt_logprobs

"""``/v1/chat/completions``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import cast

from fastapi import APIRouter, Request, Response

from lragent.engine import Chunk, Completion
from lragent.server.answering import Form, Prompt, respond
from lragent.server.errors import ApiError
from lragent.server.logprobs import LogprobWriter
from lragent.server.protocol import chat
from lragent.server.protocol.common import Answer, Reason
from lragent.server.state import ServerState, State
from lragent.server.tool_calls import ToolCallReader

router = APIRouter()


@router.post("/v1/chat/completions", response_model=chat.ChatAnswer)
async def answer(body: chat.ChatBody, http: Request, state: State) -> Answer | Response:
    """Answer a conversation, all at once or as a stream of events."""
    return await respond(body, _ChatForm(body, state), http, state)


class _ChatForm(Form):
    prefix = "chatcmpl"
    whole = chat.ChatAnswer
    event = chat.ChatChunk
    count = 1

    def __init__(self, body: chat.ChatBody, state: ServerState):
        super().__init__()
        if body.continue_final_message and body.add_generation_prompt:
            raise ApiError(400, "continue_final_message and add_generation_prompt contradict")
        if body.add_generation_prompt is False and not body.continue_final_message:
            raise ApiError(400, "add_generation_prompt: false needs continue_final_message: true")
        self._body = body
        self._engine = state.engine
        self._writer = LogprobWriter(state.engine.tokenizer)
        self._tools = [] if body.tool_choice == "none" else body.tools or []
        self._readers: defaultdict[int, ToolCallReader] = defaultdict(ToolCallReader)
        self.logprobs = (body.top_logprobs or 0) if body.logprobs else None

    def prompts(self) -> Sequence[Prompt]:
        messages = []
        for message in self._body.messages:
            given = message.model_dump(exclude_none=True)
            if message.tool_calls is not None:
                given["tool_calls"] = [call.for_template() for call in message.tool_calls]
            messages.append(given)
        tools = [tool.model_dump(exclude_none=True) for tool in self._tools]
        body, salt = self._body, self._body.cache_salt or ""
        return [
            self._engine.render(messages, body.continue_final_message, tools=tools, cache_salt=salt)
        ]

    def most_tokens(self, prompt: Prompt, room: int) -> int:
        body = self._body
        given = body.max_completion_tokens or body.max_tokens
        return given or max(1, room - len(prompt))

    def first_piece(self, index: int) -> chat.ChatChunkChoice:
        return chat.ChatChunkChoice(index=index, delta=chat.Delta(role="assistant", content=""))

    def piece(self, index: int, chunk: Chunk) -> chat.ChatChunkChoice:
        known = self._readers[index].count
        text, calls, reason = self._read(index, chunk)
        deltas = [
            chat.ToolCallDelta(index=place, **call.model_dump())
            for place, call in enumerate(calls, known)
        ]
        return chat.ChatChunkChoice(
            index=index,
            delta=chat.Delta(content=text or None, tool_calls=deltas or None),
            logprobs=self._logprobs(chunk),
            finish_reason=reason,
            stop_reason=chunk.stop_reason,
        )

    def choice(self, index: int, answer: Completion) -> chat.ChatChoice:
        text, calls, reason = self._read(index, answer)
        content = text if text.strip() or not calls else None
        return chat.ChatChoice(
            index=index,
            message=chat.AnswerMessage(content=content, tool_calls=calls or None),
            logprobs=self._logprobs(answer),
            finish_reason=reason or "stop",
            stop_reason=answer.stop_reason,
        )

    def _read(
        self, index: int, part: Chunk | Completion
    ) -> tuple[str, list[chat.ToolCall], Reason | None]:
        """The text, the calls and the reason of an answer, or of its next piece."""
        reason = cast(Reason | None, part.finish_reason)
        if not self._tools:
            return part.text, [], reason
        reader = self._readers[index]
        text, calls = reader.push(part.text, ended=reason is not None)
        return text, calls, "tool_calls" if reader.count and reason == "stop" else reason

    def _logprobs(self, part: Chunk | Completion) -> chat.ChoiceLogprobs | None:
        return None if self.logprobs is None else self._writer.for_chat(part.logprobs)

"""The engine's log-probabilities in the two forms that OpenAI has."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lragent.engine import TokenLogprob
from lragent.server.protocol import chat, completions


class LogprobWriter:
    """Writes token ids as text; without a tokenizer as `token_id:N`, as vLLM does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None):
        self._tokenizer = tokenizer

    def for_chat(self, tokens: Sequence[TokenLogprob]) -> chat.ChoiceLogprobs:
        """The form of `/v1/chat/completions`."""
        return chat.ChoiceLogprobs(
            content=[
                chat.TokenLogprob(
                    **self._entry(each.token_id, each.logprob).model_dump(),
                    top_logprobs=[self._entry(*other) for other in each.top.items()],
                )
                for each in tokens
            ]
        )

    def for_completion(
        self, token_ids: Sequence[int], tokens: Sequence[TokenLogprob | None], offset: int
    ) -> completions.CompletionLogprobs:
        """The form of `/v1/completions`; `offset` characters of the answer came before."""
        texts = list(map(self._text, token_ids))
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return completions.CompletionLogprobs(
            tokens=texts,
            token_logprobs=[each and each.logprob for each in tokens],
            top_logprobs=[
                each and {self._text(token): logprob for token, logprob in each.top.items()}
                for each in tokens
            ],
            text_offset=offsets,
        )

    def _entry(self, token_id: int, logprob: float) -> chat.TopLogprob:
        text = self._text(token_id)
        return chat.TopLogprob(token=text, logprob=logprob, bytes=list(text.encode()))

    def _text(self, token_id: int) -> str:
        if self._tokenizer is None:
            return f"token_id:{token_id}"
        text = self._tokenizer.decode([token_id])
        assert isinstance(text, str)
        return text

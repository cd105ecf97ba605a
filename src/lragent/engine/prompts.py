"""Prompts as token ids."""

from __future__ import annotations

import operator
import re
import secrets
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lragent.engine.errors import PromptTooLongError
from lragent.engine.validation import check_text
from lragent.text_pieces import TextPieces

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Tensor
"""Text, or token ids: a sequence, tensor or array of one dimension."""

_DEEPEST = 64


class PromptEncoder:
    """Tokenizes text and conversations, and checks token ids. Safe to call from many threads.

    Args:
        tokenizer: None when prompts are token ids only.
        vocabulary: number of token ids.
        limit: tokens that the model takes at most; longer prompts are refused before all of their
            text is tokenized.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, vocabulary: int, limit: int):
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._limit = limit
        self._lock = threading.Lock()  # how special tokens are read is a state of the tokenizer
        self._pieces = TextPieces(tokenizer, self._tokenize)

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt. In text, special tokens are read as such.

        Raises:
            PromptTooLongError: longer than the limit.
            TypeError: neither text nor a flat sequence of whole numbers.
            ValueError: text without a tokenizer, no token at all, or ids beyond the vocabulary.
        """
        if isinstance(prompt, str):
            if self._tokenizer is None:
                raise ValueError("this engine has no tokenizer; give token ids")
            self._check_characters(len(check_text("the prompt", prompt)))
            ids = self._tokenize(prompt, add_special_tokens=True)
        else:
            ids = _whole_numbers(prompt, "the prompt", "text or one flat sequence", self._limit)
        return self._in_vocabulary(ids, "the prompt")

    def check_ids(self, values: Sequence[int] | Tensor, argument: str) -> list[int]:
        """The token ids of an argument that cannot be text.

        Raises:
            PromptTooLongError, TypeError, ValueError: as for prompts.
        """
        ids = _whole_numbers(values, argument, "one flat sequence", self._limit)
        return self._in_vocabulary(ids, argument)

    def check_known(self, ids: Collection[int], argument: str) -> None:
        """Refuse token ids beyond the vocabulary.

        Raises:
            ValueError
        """
        if ids and max(ids) >= self._vocabulary:
            raise ValueError(f"{argument}: token ids must lie between 0 and {self._vocabulary - 1}")

    def render(
        self,
        messages: Sequence[Message],
        continue_final_message: bool,
        allow_special_tokens: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        cache_salt: str = "",
    ) -> list[int]:
        """The token ids of a conversation in the model's chat template.

        Only the template's own special tokens are read as such: one that stands in a message, say
        `<|im_end|>` in a document, is plain text and ends no turn, unless `allow_special_tokens`.

        Raises:
            PromptTooLongError: longer than the limit.
            TypeError: a message that is no mapping of strings (its `tool_calls` may be more), or
                anything that JSON does not have.
            ValueError: no tokenizer or chat template, no message, one without role or content,
                messages that the template refuses, or tools for which it has no place.
        """
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise ValueError("this engine has no tokenizer; give token ids to generate()")
        checked = [_check_message(message) for message in _as_list(messages)]
        described: Any = list(tools)
        characters: list[int] = []
        _with_texts([checked, described], lambda text: characters.append(len(text)) or text)
        self._check_characters(sum(characters))
        if described and "tools" not in tokenizer.get_chat_template(tools=described):
            raise ValueError("the model's chat template has no place for tools; leave them out")
        mark = secrets.token_hex(16)
        special = None if allow_special_tokens else self._special
        if special is not None:
            starts = re.compile(f"(?=({special}))(.)", re.DOTALL)
            checked, described = _with_texts(
                [checked, described],
                lambda text: starts.sub(lambda m: f"{mark}{ord(m[2]):08x}", text),
            )
        try:
            text = tokenizer.apply_chat_template(
                checked,
                tools=described or None,
                tokenize=False,
                add_generation_prompt=not continue_final_message,
                continue_final_message=continue_final_message,
            )
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses the messages: {error}") from error
        assert isinstance(text, str)
        if mark not in text:
            return self._pieces(text, check_text("cache_salt", cache_salt))
        ids: list[int] = []
        for place, piece in enumerate(re.split(f"({special})", text)):
            if place % 2:
                ids += self._tokenize(piece)
            elif piece:
                plain = re.sub(f"{mark}([0-9a-f]{{8}})", lambda m: chr(int(m[1], 16)), piece)
                ids += self._tokenize(plain, plain=True)
        return ids

    def _tokenize(
        self, text: str, add_special_tokens: bool = False, plain: bool = False
    ) -> list[int]:
        assert self._tokenizer is not None
        with self._lock:
            ids = self._tokenizer(
                text, add_special_tokens=add_special_tokens, split_special_tokens=plain
            )
        found = ids["input_ids"]
        assert isinstance(found, list)
        return found

    def _in_vocabulary(self, ids: list[int], argument: str) -> list[int]:
        if not ids:
            raise ValueError(f"{argument} is empty; give at least one token")
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise ValueError(f"token ids must lie between 0 and {self._vocabulary - 1}")
        return ids

    def _check_characters(self, count: int) -> None:
        if self._tokenizer is None:
            return
        most = self._limit * self._longest_token
        if count > most:
            raise PromptTooLongError(
                f"the prompt has {count:,} characters, and the model's limit of {self._limit} "
                f"tokens holds {most:,} at most; shorten the prompt"
            )

    @cached_property
    def _longest_token(self) -> int:
        """Characters of the longest token; no token covers more characters of a text."""
        assert self._tokenizer is not None
        return max(map(len, self._tokenizer.get_vocab()), default=1)

    @cached_property
    def _special(self) -> str | None:
        """A pattern of the special tokens, which are literal texts; None when there are none."""
        assert self._tokenizer is not None
        added = self._tokenizer.added_tokens_decoder.values()
        texts = {str(token.content) for token in added if token.special}
        texts |= set(self._tokenizer.all_special_tokens)
        longest_first = sorted(filter(None, texts), key=len, reverse=True)
        return "|".join(map(re.escape, longest_first)) or None


def _whole_numbers(
    given: Sequence[int] | Tensor, argument: str, kind: str, limit: int
) -> list[int]:
    # Tensors and arrays of one dimension are welcome too.
    values = given.tolist() if hasattr(given, "tolist") else given  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if len(values) >= limit:
            raise PromptTooLongError(
                f"{argument} has {len(values)} tokens and the model's limit is {limit} with the "
                "answer; shorten it"
            )
        if isinstance(values, str | bytes | Mapping) or any(isinstance(v, bool) for v in values):
            raise TypeError("no token ids")
        return [operator.index(value) for value in values]
    except TypeError:
        raise TypeError(
            f"{argument} must be {kind} of token ids (whole numbers), not {given!r:.80}"
        ) from None


def _as_list(messages: Sequence[Message]) -> list[Message]:
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise TypeError(
            "messages must be a list of {'role': …, 'content': …}, not "
            f"{type(messages).__name__}; give text to generate()"
        )
    if not messages:
        raise ValueError("there is no message; give at least one")
    return list(messages)


def _with_texts(value: Any, change: Callable[[str], str], depth: int = 0) -> Any:
    """A JSON value with all of its texts changed, names of fields too."""
    if depth > _DEEPEST:
        raise ValueError(f"messages and tools may be nested {_DEEPEST} deep at most")
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return change(check_text("a text of the conversation", value))
        case list() | tuple():
            return [_with_texts(each, change, depth + 1) for each in value]
        case Mapping():
            keys = [change(check_text("a field's name", key)) for key in value]
            values = [_with_texts(each, change, depth + 1) for each in value.values()]
            return dict(zip(keys, values, strict=True))
    raise TypeError(f"messages and tools must be as in JSON; they hold {value!r:.80}")


def _check_message(message: Message) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TypeError(f"a message must be {{'role': …, 'content': …}}, not {message!r:.80}")
    for field in ("role", "content"):
        if field not in message:
            raise ValueError(f"a message lacks {field!r}: {dict(message)!r:.80}")
    return {
        check_text("a message's field", key): value
        if key == "tool_calls"
        else check_text(f"a message's {key}", value)
        for key, value in message.items()
    }

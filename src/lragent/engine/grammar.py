"""Answers of a given form: which tokens may come next, by llguidance."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lragent.engine.params import StructuredOutputsParams

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


class Grammars:
    """Compiles what requests want of their answers, for one tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase | None, vocabulary: int, eos: Collection[int]
    ):
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._eos = sorted(eos)

    def compile(self, wanted: StructuredOutputsParams) -> TokenFilter:
        """A filter at the start of an answer.

        Raises:
            ValueError: no such grammar, no tokenizer that llguidance can read, or no llguidance.
        """
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise ValueError(
                "structured_outputs need the package llguidance: pip install 'lragent[structured]'"
            ) from error

        matcher = LLMatcher(self._readable, _grammar(wanted))
        if matcher.is_error():
            first = matcher.get_error().strip().splitlines()[0]
            raise ValueError(f"structured_outputs cannot be followed: {first:.300}")
        return TokenFilter(matcher, self._vocabulary)

    @cached_property
    def _readable(self) -> LLTokenizer:
        from llguidance.hf import from_tokenizer
        from transformers import PreTrainedTokenizerFast

        tokenizer = self._tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ValueError("structured_outputs need a fast tokenizer, and this engine has none")
        if not self._eos:
            raise ValueError("structured_outputs need an end token, and this model has none")
        return from_tokenizer(tokenizer, n_vocab=self._vocabulary, eos_token=self._eos)


class TokenFilter:
    """The state of one answer."""

    def __init__(self, matcher: LLMatcher, vocabulary: int):
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._taken = 0

    def copy(self) -> TokenFilter:
        """Another one at the same place."""
        other = TokenFilter(self._matcher.deep_copy(), self._vocabulary)
        other._taken = self._taken
        return other

    def forbidden(self, output: Sequence[int]) -> Tensor:
        """`[vocab]` bool, the tokens that may not come after `output`.

        Raises:
            ValueError: the output is not of the form.
        """
        new = list(output[self._taken :])
        if (new and not self._matcher.consume_tokens(new)) or self._matcher.is_error():
            raise ValueError(f"structured_outputs: {self._matcher.get_error():.300}")
        self._taken = len(output)
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        return bits.reshape(-1)[: self._vocabulary] == 0


def _grammar(wanted: StructuredOutputsParams) -> str:
    from llguidance import LLMatcher

    if wanted.json is not None:
        return LLMatcher.grammar_from_json_schema(wanted.json)
    if wanted.json_object:
        return LLMatcher.grammar_from_json_schema({"type": "object"})
    if wanted.regex is not None:
        return LLMatcher.grammar_from_regex(wanted.regex)
    if wanted.choice is not None:
        return LLMatcher.grammar_from_lark(
            "start: " + " | ".join(json.dumps(text) for text in wanted.choice)
        )
    assert wanted.grammar is not None
    return LLMatcher.grammar_from_lark(wanted.grammar)

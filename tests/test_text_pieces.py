"""Parts of a text are tokenised once, and give what the whole gives."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.engine.models import prompt_of, tiny_model
from tests.engine.tokenizer import byte_tokenizer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lragent import Engine, SamplingParams
from lragent.engine.loader import load_model
from lragent.text_pieces import LONG, TextPieces

ENDS = ["<|end|>", "<s>", "<|end|>\n", "\n<|end|>", " <s> ", "<|end|><s>", "<|en", "|>"]


class Counted:
    """A tokenizer's call, and the texts that it was asked for."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.texts: list[str] = []

    def __call__(self, text: str) -> list[int]:
        self.texts.append(text)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def pieces_of(tokenizer: Any, **more: int) -> tuple[TextPieces, Counted]:
    encode = Counted(tokenizer)
    return TextPieces(tokenizer, encode, **more), encode


def unigram(prepend: Any = "first", normalizer: Any = None, **token: bool) -> Any:
    """As SentencePiece writes them: a word begins with ▁, the text too, by `prepend`."""
    letters = [(c, -4.0) for c in "▁abcdefghijklmnopqrstuvwxyz\n<>|é"]
    words = [("▁the", -1.0), ("he", -2.0), ("▁a", -2.0), ("ing", -1.5)]
    made = Tokenizer(models.Unigram([("<unk>", 0.0), *letters, *words], 0, False))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_special_tokens([AddedToken(t, normalized=False, **token) for t in ("<|end|>", "<s>")])
    return PreTrainedTokenizerFast(tokenizer_object=made)


TOKENIZERS: dict[str, Any] = {
    "bytes": byte_tokenizer,
    "SmolLM2": lambda: load_model("smollm2")[1],
    "metaspace first": unigram,
    "metaspace always": lambda: unigram("always"),
    "prepended": lambda: unigram("never", normalizers.Prepend("▁")),
    "folded": lambda: unigram(normalizer=normalizers.Sequence([normalizers.Lowercase()])),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_parts_give_what_the_whole_gives(kind: str):
    tokenizer = TOKENIZERS[kind]()
    pieces, encode = pieces_of(tokenizer)
    chance = random.Random(kind)
    ends = [*ENDS, *tokenizer.all_special_tokens, "<|im_end|>\n"]
    words = ["the", "thing", " a", "  ", "\n", "é", "singing", "The"]
    parts = ["".join(chance.choices(words, k=chance.choice([3, 900]))) for _ in range(6)]
    for _ in range(30):
        text = "".join(f"{chance.choice(parts)}{chance.choice(ends)}" for _ in range(5))
        assert pieces(text, "") == tokenizer(text, add_special_tokens=False)["input_ids"]
    long = [text for text in encode.texts if len(text) >= LONG]
    assert len(set(long)) == len(long)
    assert pieces._begins is not None


def test_only_what_is_new_is_tokenised():
    pieces, encode = pieces_of(byte_tokenizer())
    first = f"<|system|>be kind<|end|><|user|>{'a page ' * 1000}<|end|>"
    pieces(first, "")
    encode.texts.clear()
    grown = f"{first}<|assistant|>{'an answer ' * 400}<|end|><|user|>and?<|end|>"
    assert pieces(grown, "") == byte_tokenizer()(grown, add_special_tokens=False)["input_ids"]
    assert max(map(len, encode.texts)) < 5000


def test_tenants_do_not_see_by_the_time_what_others_sent():
    pieces, encode = pieces_of(byte_tokenizer())
    text = f"<s>{'secret ' * 1000}<|end|>"
    pieces(text, "one")
    for tenant, new in (("one", False), ("other", True), ("other", False), ("", True)):
        encode.texts.clear()
        pieces(text, tenant)
        assert any("secret" in asked for asked in encode.texts) == new


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_tokens_that_look_around_themselves_cut_nothing(flag: str):
    pieces, encode = pieces_of(unigram(**{flag: True}))
    for _ in range(2):
        pieces(f"<s>{' the thing ' * 500}<|end|>", "")
    assert len(encode.texts) == 2


def test_tokens_that_can_hold_each_other_cut_nothing():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s><|end|>", "d|>x"]})
    pieces, _ = pieces_of(tokenizer)
    assert pieces._begins is not None
    assert pieces._begins.pattern == "<pad>"


def test_a_tokenizer_that_cuts_otherwise_is_found_out():
    def encode(text: str) -> list[int]:
        return [len(text)]  # no sum of its parts

    pieces = TextPieces(byte_tokenizer(), encode)
    text = f"<s>{'a' * 3000}<|end|>{'b' * 3000}"
    for _ in range(2):
        assert pieces(text, "") == [len(text)]


def test_what_is_kept_has_a_bound():
    pieces, _ = pieces_of(byte_tokenizer(), most_characters=10_000)
    for number in range(20):
        pieces("".join(f"<s>{number}{letter * 3000}" for letter in "ab"), "")
        assert pieces._characters == sum(len(text) for _, text in pieces._kept)
        assert pieces._characters <= 10_000
    pieces("<s>" + "x" * 20_000, "")
    assert len(pieces._kept) == 3


def test_many_threads():
    tokenizer = byte_tokenizer()
    pieces, _ = pieces_of(tokenizer, most_characters=9000)
    texts = [f"<s>{'ab' * 1500}{n}<|end|>{'cd' * 1500}{n % 3}" for n in range(8)]
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: pieces(texts[n % 8], ""), range(64))) == expected * 8


def test_an_engine_tokenises_a_document_once_for_a_tenant(monkeypatch: pytest.MonkeyPatch):
    with Engine((tiny_model(), byte_tokenizer())) as engine:
        seen: list[int] = []
        tokenize = engine._prompts._tokenize
        monkeypatch.setattr(
            engine._prompts._pieces,
            "_encode",
            lambda text: seen.append(len(text)) or tokenize(text),
        )
        engine._prompts._pieces._checked = True
        document = {"role": "user", "content": "a page " * 600}
        for salt, new in (("", True), ("", False), ("tenant", True), ("tenant", False)):
            seen.clear()
            engine.render([document], cache_salt=salt)
            assert (max(seen) > 4000) == new
        assert engine.submit(prompt_of(5), SamplingParams(max_tokens=1)).result().token_ids

"""An answer's text is the same when its stream begins with the end of a long prompt."""

# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.engine.tokenizer import byte_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lragent.vllm.frontend import answer_text
from lragent.vllm.frontend.answer_text import LONG, TAIL, end_of
from lragent.vllm.plugin import register

pytestmark = pytest.mark.every_version
SPECIAL = 1


def fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Words that begin with a space, and bytes for all else, as in Llama 2; 1 is special."""
    words = ["<unk>", "</s>", "▁the", "▁page", "▁", "ing", "s", "▁é"]
    vocab = {word: i for i, word in enumerate([*words, *(f"<0x{b:02X}>" for b in range(256))])}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


TOKENIZERS = {"bytes": (byte_tokenizer(), 3), "fallback": (fallback_tokenizer(), 8)}
"""Each with the token of byte 0: in the first in the order of byte-level BPE's alphabet."""


def bytes_of(name: str, text: str) -> list[int]:
    tokenizer, first = TOKENIZERS[name]
    if name == "bytes":
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    return [first + byte for byte in text.encode()]


def drawn(name: str, rng: random.Random, count: int) -> list[int]:
    """Some more tokens of text with characters of one to four bytes, words and special tokens."""
    found: list[int] = []
    while len(found) < count:
        found += bytes_of(name, rng.choice(("a", " b", "é", "本", "🙂", " ", "\n", "語" * 40)))
        if rng.random() < 0.2:
            found.append(SPECIAL)
        if rng.random() < 0.003:  # half a character, in the first tokenizer
            found += rng.choices((4, 5, 6, 7), k=3)
    return found


def pieces(
    name: str, prompt: list[int], answer: list[int], skip: bool, shortens: bool
) -> list[str]:
    """What each token of an answer adds to its text in vLLM."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

    request: Any = SimpleNamespace(
        request_id="a",
        prompt_token_ids=prompt,
        sampling_params=SamplingParams(skip_special_tokens=skip),
    )
    before = answer_text._shortens.set(shortens)
    try:
        detokenizer = FastIncrementalDetokenizer(TOKENIZERS[name][0], request)
    finally:
        answer_text._shortens.reset(before)
    found = []
    for token in answer:
        detokenizer.update([token], False)
        found.append(detokenizer.get_next_output_text(False, delta=True))
    return found


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_text_is_that_of_the_whole_prompt(name: str, skip: bool):
    register()
    rng = random.Random(5)
    shortened = 0
    for number in range(150):
        prompt = drawn(name, rng, LONG + rng.randrange(300))
        end = rng.randrange(4)
        if end == 1:  # a chat template's last tokens
            prompt += [SPECIAL] * 3
        elif end == 2:  # nothing that is seen
            prompt += [SPECIAL] * TAIL
        elif end == 3:  # characters without a word among them
            prompt += bytes_of(name, "🙂" * TAIL)
        answer = drawn(name, rng, 12)
        if rng.random() < 0.3:  # the prompt ends within a character, which the answer goes on with
            cut = rng.randrange(1, 4)
            character = bytes_of(name, "🙂")
            prompt, answer = [*prompt, *character[:cut]], [*character[cut:], *answer]
        shortened += end_of(prompt, TOKENIZERS[name][0]._tokenizer, skip) is not None
        expected = pieces(name, prompt, answer, skip, False)
        assert pieces(name, prompt, answer, skip, True) == expected, number
    assert 60 < shortened < 150


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_end_is_short_and_begins_with_a_character(name: str):
    tokenizer = TOKENIZERS[name][0]._tokenizer
    for text in ("語" * 2000, "a " * 2000, "🙂" * 2000):
        for cut in range(4):
            end = end_of(bytes_of(name, "a" * cut + text), tokenizer, True)
            assert end is not None
            assert TAIL - 3 <= len(end) <= TAIL
    assert end_of([SPECIAL] * LONG, tokenizer, True) is None


@pytest.mark.parametrize("plugin", [True, False])
def test_only_where_the_option_is(plugin: bool, root: Path):
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    register()
    config = EngineArgs(str(root / "llama"), dtype="float32").create_engine_config()
    option = {"lragent": {"policy": "base+lr", "groups": [["plan", "act"]]}}
    config.additional_config = option if plugin else {}
    seen: list[bool] = []

    async def send(*_: Any) -> None: ...

    engine: Any = SimpleNamespace(
        vllm_config=config,
        check_admission=lambda **_: None,
        log_requests=False,
        output_processor=SimpleNamespace(
            has_request=lambda _: True,
            add_request=lambda *_: seen.append(answer_text._shortens.get()),
        ),
        engine_core=SimpleNamespace(add_request_async=send),
    )
    request: Any = SimpleNamespace(request_id="a")
    asyncio.run(AsyncLLM._add_request(engine, request, None, None, 0, None))  # type: ignore[arg-type]
    assert seen == [plugin]
    assert not answer_text._shortens.get()

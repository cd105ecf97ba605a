"""Token ids of samples, and batches of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lragent.training.encoding import IGNORED, Example, collate, encode, encode_all
from lragent.training.errors import TrainingError
from lragent.training.samples import Message, Sample


def chat(*contents: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in contents]


def test_output_continues_the_assistant_message(tokenizer: Any) -> None:
    sample = Sample(role="act", input=chat(("user", "w1 w2"), ("assistant", "w3")), output="w4 w5")

    example = encode(sample, tokenizer)

    assert tokenizer.decode(example.ids) == "<user> w1 w2 <end> <assistant> w3 w4 w5"
    assert example.learnt == 2


def test_output_opens_an_assistant_message_after_the_user(tokenizer: Any) -> None:
    example = encode(Sample(role="act", input=chat(("user", "w1")), output="w4"), tokenizer)

    assert tokenizer.decode(example.ids) == "<user> w1 <end> <assistant> w4"
    assert example.learnt == 1


def test_plain_text_input(tokenizer: Any) -> None:
    example = encode(Sample(role="act", input="w1 w2", output="w4"), tokenizer)

    assert tokenizer.decode(example.ids) == "w1 w2 w4"


def test_chat_without_template_is_refused(tokenizer: Any) -> None:
    sample = Sample(role="act", input=chat(("user", "w1")), output="w4")
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(TrainingError, match="no chat template"):
            encode(sample, tokenizer)
    finally:
        tokenizer.chat_template = template


def test_samples_over_the_limit_are_left_out_and_counted(tokenizer: Any) -> None:
    short = Sample(role="act", input="w1 w2", output="w4")
    long = Sample(role="act", input="w1 w2 w3", output="w4")

    kept, dropped = encode_all([short, long, short], tokenizer, max_length=3)

    assert [len(example.ids) for example in kept] == [3, 3]
    assert dropped == 1


def test_batch_is_padded_left_and_learns_outputs_only() -> None:
    batch = collate([Example("act", [5, 6, 7, 8], 1), Example("act", [9, 10], 1)])

    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 9, 10]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert batch["labels"].tolist() == [[IGNORED] * 3 + [8], [IGNORED] * 3 + [10]]
    assert batch["logits_to_keep"] == 2
    assert batch["role"] == "act"
    assert batch["input_ids"].dtype == torch.int64

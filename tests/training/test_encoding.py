"""Token ids of samples, and batches of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from lragent.training.encoding import IGNORED, Example, collate, encode, encode_all
from lragent.training.errors import TrainingError
from lragent.training.samples import Message, Sample
from lragent.training.trainer import output_loss


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


def test_batch_is_padded_right_and_learns_outputs_only() -> None:
    batch = collate([Example("act", [5, 6, 7, 8], 1), Example("act", [9, 10], 1)])

    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED] * 3 + [8], [IGNORED, 10, IGNORED, IGNORED]]
    assert batch["logits_to_keep"] == 4
    assert batch["role"] == "act"
    assert batch["input_ids"].dtype == torch.int64


def test_batch_loss_is_that_of_its_samples_alone(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    examples = [Example("act", list(range(5, 5 + n)), learnt) for n, learnt in [(9, 3), (4, 1)]]

    alone = 0.0
    for example in examples:
        ids = torch.tensor([example.ids])
        logits = model(ids).logits[0, -example.learnt - 1 : -1]
        alone += F.cross_entropy(logits, ids[0, -example.learnt :], reduction="sum").item()
    batch = collate(examples)
    labels = batch.pop("labels")
    batch.pop("role")
    outputs = model(**batch)

    assert outputs.logits.shape[1] == 7
    assert output_loss(outputs, labels).item() == pytest.approx(alone / 4, rel=1e-5)
    assert output_loss(outputs, labels, 8).item() == pytest.approx(alone / 8, rel=1e-5)

"""From samples to token ids, and from those to padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from lragent.training.errors import TrainingError
from lragent.training.samples import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that is not learnt."""


@dataclass(frozen=True)
class Example:
    """One sample as token ids; the last `learnt` of them are the output."""

    role: str
    ids: list[int]
    learnt: int


def encode(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Tokenise input and output apart and join them.

    Apart, since the engine does the same: the model continues the tokens of the input, whatever
    a tokenizer would merge across the seam.

    Raises:
        TrainingError: chat messages, and a tokenizer without a chat template.
    """
    if isinstance(sample.input, str):
        start = list(tokenizer(sample.input)["input_ids"])
    else:
        if not tokenizer.chat_template:
            raise TrainingError(
                "the samples hold chat messages, but the model's tokenizer has no chat template: "
                "use an instruct model, or give the inputs as plain text"
            )
        continued = sample.input[-1].role == "assistant"
        encoded: Any = tokenizer.apply_chat_template(
            [message.model_dump() for message in sample.input],
            continue_final_message=continued,
            add_generation_prompt=not continued,
            return_dict=True,
        )
        start = list(encoded["input_ids"])
    output = list(tokenizer(sample.output, add_special_tokens=False)["input_ids"])
    return Example(sample.role, start + output, len(output))


def answer_header(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that the chat template puts before an answer; none where it puts nothing there.

    White space at its end is left out, which the tokenizer may join with the answer's first word.
    """
    if not tokenizer.chat_template:
        return []
    asked = [{"role": "user", "content": "x"}]
    without, with_header = (
        cast(str, tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=add))
        for add in (False, True)
    )
    if not with_header.startswith(without):
        return []
    return text_tokens(with_header.removeprefix(without).strip(), tokenizer)


def text_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a part of a prompt; none for no text."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def encode_all(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Example], int]:
    """Encode samples; those longer than `max_length` tokens are left out, and counted.

    Cutting them from the left would cost the instructions, from the right the output.
    """
    examples = [encode(sample, tokenizer) for sample in samples]
    kept = [example for example in examples if len(example.ids) <= max_length]
    return kept, len(examples) - len(kept)


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """A batch of one role's examples, padded on the right.

    Under a causal mask nothing sees the padding after it, so no padding mask is needed. (With
    padding on the left, rows that see nothing give NaN gradients in some attention kernels.)

    Returns:
        `input_ids`, `labels`: [batch, longest] int64; `logits_to_keep`: how many last positions
        cover every output and the position before it, so that the (much longer) inputs are spared
        the vocabulary projection; `role`.
    """
    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.ids)
        start, end = len(tokens) - example.learnt, len(tokens)
        ids[row, :end] = tokens
        labels[row, start:end] = tokens[start:]
    first = min(len(example.ids) - example.learnt for example in examples)
    return {
        "input_ids": ids,
        "labels": labels,
        "logits_to_keep": min(width, width - first + 1),
        "role": examples[0].role,
    }

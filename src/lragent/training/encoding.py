"""From samples to token ids, and from those to padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    return _encode([sample], tokenizer)[0]


def encode_all(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Example], int]:
    """Encode samples; those longer than `max_length` tokens are left out, and counted.

    Cutting them from the left would cost the instructions, from the right the output.
    """
    examples = _encode(samples, tokenizer)
    kept = [example for example in examples if len(example.ids) <= max_length]
    return kept, len(examples) - len(kept)


def _encode(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """See `encode`. All texts go to the tokenizer together, which then uses every core."""
    chats = [not isinstance(sample.input, str) for sample in samples]
    texts = [_text(sample, tokenizer) for sample in samples]
    # The template writes a conversation's special tokens itself.
    plain = _tokens([text for text, chat in zip(texts, chats, strict=True) if not chat], tokenizer)
    rendered = _tokens(
        [text for text, chat in zip(texts, chats, strict=True) if chat], tokenizer, special=False
    )
    outputs = _tokens([sample.output for sample in samples], tokenizer, special=False)
    starts = [next(rendered if chat else plain) for chat in chats]
    return [
        Example(sample.role, start + output, len(output))
        for sample, start, output in zip(samples, starts, outputs, strict=True)
    ]


def _text(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> str:
    if isinstance(sample.input, str):
        return sample.input
    if not tokenizer.chat_template:
        raise TrainingError(
            "the samples hold chat messages, but the model's tokenizer has no chat template: "
            "use an instruct model, or give the inputs as plain text"
        )
    continued = sample.input[-1].role == "assistant"
    text = tokenizer.apply_chat_template(
        [message.model_dump() for message in sample.input],
        tokenize=False,
        continue_final_message=continued,
        add_generation_prompt=not continued,
    )
    assert isinstance(text, str)
    return text


def _tokens(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, special: bool = True
) -> Iterator[list[int]]:
    found: Any = tokenizer(list(texts), add_special_tokens=special)["input_ids"] if texts else []
    return iter(found)


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

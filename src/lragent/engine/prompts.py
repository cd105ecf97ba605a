"""Prompts as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]


def encode(
    prompt: str | Sequence[int], tokenizer: PreTrainedTokenizerBase | None, vocabulary: int
) -> list[int]:
    """The token ids of a prompt: text is tokenized, ids are checked.

    Raises:
        ValueError: text without a tokenizer, no token at all, or ids beyond the `vocabulary`.
    """
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ValueError("this engine has no tokenizer; give token ids")
        ids = tokenizer(prompt)["input_ids"]
        assert isinstance(ids, list)
    else:
        ids = list(prompt)
    if not ids:
        raise ValueError("the prompt is empty; give at least one token")
    if min(ids) < 0 or max(ids) >= vocabulary:
        raise ValueError(f"token ids must lie between 0 and {vocabulary - 1}")
    return ids


def render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase | None,
    continue_final_message: bool,
) -> list[int]:
    """The token ids of a conversation in the model's chat template.

    Raises:
        ValueError: there is no tokenizer.
    """
    if tokenizer is None:
        raise ValueError("this engine has no tokenizer; give token ids to generate()")
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tokenize=False,
        add_generation_prompt=not continue_final_message,
        continue_final_message=continue_final_message,
    )
    assert isinstance(text, str)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    return ids

"""Where a tool's output begins in a prompt, for tokenizers of different kinds."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lragent.sharing.turns import last_occurrence
from lragent.training.acting import acting_tokens, tool_output

PROMPT = (
    "Answer with a Thought and an Action; an Observation follows.\n"
    "Action Input: the input\nObservation: the result\nBegin.\nAction 1: Search[x]\n"
    "Observation 1: It is so.\nAction 2: Finish[y]\nObservation 2: It ends.\nThought 3:"
)


def words(pieces: Any) -> Any:
    """A tokenizer whose tokens are the pieces of the prompt, and line breaks."""
    known = sorted({word for word, _ in pieces.pre_tokenize_str(PROMPT)} | {"<unk>", "\n", "\n\n"})
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pieces
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


# Every text begins with a space, also "\nObservation" alone.
LLAMA_2 = pre_tokenizers.Sequence(
    [pre_tokenizers.Metaspace(), pre_tokenizers.Split("\n", behavior="isolated")]
)
# A line break belongs to the bracket or full stop before it.
LLAMA_3 = pre_tokenizers.Split(
    Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"), behavior="isolated"
)
GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize(
    ("pieces", "found"),
    [(LLAMA_2, "\nObservation"), (LLAMA_3, "Observation"), (GPT_2, "\nObservation")],
    ids=["Llama 2", "Llama 3", "GPT-2"],
)
def test_the_last_line_of_an_observation(pieces: Any, found: str) -> None:
    tokenizer = words(pieces)
    ids = tokenizer(PROMPT)["input_ids"]
    assert tool_output([ids], tokenizer) == found
    place = last_occurrence(ids, acting_tokens(found, tokenizer))
    assert place is not None
    rest = "".join(tokenizer.convert_ids_to_tokens(ids[place:]))
    assert rest.lstrip("\nĊ").startswith("Observation")
    assert rest.count("Observation") == 1  # the last one
    assert "2" in rest
    # The word in the instructions is none.
    instructions = tokenizer(PROMPT.partition("\n")[0])["input_ids"]
    assert tool_output([instructions], tokenizer) == ""


def test_a_text_that_few_prompts_hold_is_not_taken() -> None:
    tokenizer = words(GPT_2)
    holds, lacks = (tokenizer(text)["input_ids"] for text in (PROMPT, "Question: who?"))
    assert tool_output([holds, lacks, lacks, lacks], tokenizer) == "\nObservation"
    assert tool_output([holds, lacks, lacks, lacks, lacks], tokenizer) == ""
    assert tool_output([], tokenizer) == ""
    assert acting_tokens("", tokenizer) == []

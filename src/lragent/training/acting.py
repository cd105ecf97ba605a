"""From which text of a prompt on roles act under ``neutral``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lragent.sharing.turns import last_occurrence
from lragent.training.errors import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOOL_OUTPUTS = (
    "\nObservation",
    "Observation",
    "<tool_response>",
    "<tool_response",
    "[TOOL_RESULTS]",
    "<|im_start|>tool",
    "<|start_header_id|>ipython",
)
"""How a tool's output begins: for `lragent.agents` and in ReAct, then in chat templates of Qwen,
Mistral, ChatML and Llama 3. Some tokenizers join a line break to what stands before it, or a
bracket to what follows: then the second of two is found."""

_SHARE = 0.25
"""Of the prompts, below which a text is none of their customs."""


def tool_output(prompts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> str:
    """The first of `TOOL_OUTPUTS` that a quarter of the prompts hold; "" without one."""
    needed = max(1.0, _SHARE * len(prompts))
    held = (text for text in TOOL_OUTPUTS if _held(text, prompts, tokenizer) >= needed)
    return next(held, "")


def require(
    text: str, prompts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a text that no prompt holds.

    Raises:
        TrainingError: says how the text is tokenised.
    """
    if text and not _held(text, prompts, tokenizer):
        raise TrainingError(
            f"no prompt holds the acting text {text!r} (tokens {acting_tokens(text, tokenizer)}): "
            "give text that the prompts end with, or leave the option out"
        )


def acting_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens from which an adapter acts, for `prepare_for_neutral` and `write_sidecar`.

    They are those of a text behind a line break: alone, some tokenizers have every text begin with
    a space. None for no text.
    """
    before, both, alone = (_tokens(part, tokenizer) for part in ("\n", "\n" + text, text))
    return both[len(before) :] if both[: len(before)] == before else alone


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _held(text: str, prompts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> int:
    """How many prompts hold the text."""
    tokens = acting_tokens(text, tokenizer)
    return sum(last_occurrence(prompt, tokens) is not None for prompt in prompts)

"""From which text of a prompt on roles act under ``neutral``."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lragent.sharing.turns import last_occurrence
from lragent.training.errors import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

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
Mistral, ChatML and Llama 3. Where a tokenizer joins a line break to what stands before it, or a
bracket to what follows, the second of two holds."""

LONG_TURN = 1000
"""Tokens from the acting text on above which a run says what they cost."""

_SHARE = 0.25
"""Share of the prompts that must hold a text for it to be taken."""


def choose_text(
    text: str | None, prompts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> str:
    """From which text on roles act: the given one, or `tool_output`; "" for the last token.

    A warning says what it costs to have none, or long turns.

    Raises:
        TrainingError: no prompt holds the given text; says how it is tokenised.
    """
    if text is None:
        text = tool_output(prompts, tokenizer)
        if not text:
            logger.warning(
                "The roles will act from each prompt's last token on. Some that were trained so "
                "lost right answers; name the text that begins what is new in each prompt "
                "(--acting-text)"
            )
    if not text:
        return text
    turns = turn_tokens(text, prompts, tokenizer)
    if not turns:
        raise TrainingError(
            f"no prompt holds the acting text {text!r} (tokens {acting_tokens(text, tokenizer)}): "
            "give text that the prompts end with, with the space before it if there is one, or "
            "leave the option out"
        )
    if (median := statistics.median(turns)) > LONG_TURN:
        logger.warning(
            "Half of the prompts that hold the acting text %r have %s tokens or more from there "
            "on. A role computes these itself in every request, which can take longer than sharing "
            "saves. Shorten what tools answer, or act from a text nearer to the prompt's end "
            "(--acting-text) and see what it costs in answers",
            text,
            f"{int(median):,}",
        )
    return text


def tool_output(prompts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> str:
    """The first of `TOOL_OUTPUTS` that a quarter of the prompts hold; "" without one.

    One whose tokens are others beside a bracket and a line break is passed over: it would be found
    in some places and not in others.
    """
    needed = max(1.0, _SHARE * len(prompts))
    for text in TOOL_OUTPUTS:
        line = _tokens(f"]{text}\n" if text[0] == "\n" else f"]\n{text}\n", tokenizer)
        stands = last_occurrence(line, acting_tokens(text, tokenizer)) is not None
        if stands and len(turn_tokens(text, prompts, tokenizer)) >= needed:
            return text
    return ""


def turn_tokens(
    text: str, prompts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Tokens from the text on, of each prompt that holds it."""
    tokens = acting_tokens(text, tokenizer)
    places = [(len(prompt), last_occurrence(prompt, tokens)) for prompt in prompts]
    return [length - place for length, place in places if place is not None]


def acting_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens from which an adapter acts, for `prepare_for_neutral` and `write_sidecar`.

    They are those of a text behind a line break: alone, some tokenizers have every text begin with
    a space. An empty list for no text.
    """
    before, both, alone = (_tokens(part, tokenizer) for part in ("\n", "\n" + text, text))
    return both[len(before) :] if both[: len(before)] == before else alone


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])

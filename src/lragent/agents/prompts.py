"""The one prompt and the one growing trajectory that all roles share (paper, "Setup").

Every role continues the same assistant message, so each role's prompt is a prefix extension of
the last one's and a shared KV cache can serve all of it::

    Thought 1:| I need to find Oland Bridge.|        plan writes the thought, stops at the line end
    Action 1:| Retrieve|                             plan writes the tool, stops at "["
    [|Oland Bridge|]                                 act writes the argument, stops at "]"
    Observation 1: Oland Bridge: Oland Bridge is …   the tool
    …
    Action 3: Finish[1873]
    Thought 4:| The page says … |                    reflect writes a thought
    Action 4: Reflect[|right|]                       reflect writes the verdict

A turn always starts after ``:`` or ``[`` and never after a space, and a role's text carries its own
leading space: byte-pair tokenizers then cut the joined text exactly where the roles meet.
"""

from __future__ import annotations

from enum import StrEnum

SYSTEM_PROMPT = (
    "Answer the question step by step with a Thought and an Action; an Observation follows. "
    "Actions: Search[query] finds a passage. Retrieve[title] opens a page. "
    "Lookup[keyword] finds the next sentence with it on the page. "
    "Calculate[expression] does arithmetic. Finish[answer] gives the answer. "
    "Reflect[right] or Reflect[wrong] judges it."
)


class Role(StrEnum):
    """Who writes: the paper's three agents."""

    PLAN = "plan"
    ACT = "act"
    REFLECT = "reflect"


class Turn(StrEnum):
    """What a role writes in one call."""

    THOUGHT = "thought"
    TOOL = "tool"
    ARGUMENT = "argument"
    VERDICT = "verdict"


STOPS: dict[Turn, tuple[str, ...]] = {
    Turn.THOUGHT: ("\n",),
    Turn.TOOL: ("[", "\n"),
    Turn.ARGUMENT: ("]", "\n"),
    Turn.VERDICT: ("]", "\n"),
}
"""Stop strings of each turn; the stop string itself is no part of the turn's text."""

FINISH = "Finish"
REFLECT = "Reflect"


Message = dict[str, str]
"""One chat message: ``{"role": …, "content": …}``."""


class Trajectory:
    """The question and the assistant text so far; every method only appends.

    The order of one step is ``open_thought``, ``write``, ``open_action``, ``write`` (the tool),
    ``open_argument``, ``write``, ``close_argument`` and, when a tool answered, ``observe``.
    """

    def __init__(self, question: str, system_prompt: str = SYSTEM_PROMPT) -> None:
        self.question = one_line(question)
        self.system_prompt = system_prompt
        self.step = 0
        self.text = ""

    def open_thought(self) -> None:
        """Start the next step with its thought label."""
        self.step += 1
        self.text += f"Thought {self.step}:"

    def open_action(self) -> None:
        """End the thought and put the action label."""
        self.text += f"\nAction {self.step}:"

    def open_argument(self) -> None:
        """Put the bracket after the tool name."""
        self.text += "["

    def open_verdict(self) -> None:
        """End the thought and open the action in which reflect writes its verdict."""
        self.text += f"\nAction {self.step}: {REFLECT}["

    def write(self, text: str) -> None:
        """Append what a role wrote, unchanged, so that cached tokens stay a prefix."""
        self.text += text

    def close_argument(self) -> None:
        """Close the action."""
        self.text += "]\n"

    def observe(self, observation: str) -> None:
        """Append a tool's answer as one line."""
        self.text += f"Observation {self.step}: {one_line(observation)}\n"

    def messages(self) -> list[Message]:
        """Chat messages; the last one is the assistant's and is to be continued."""
        return [
            {"role": "system", "content": self.system_prompt},
            {"role": "user", "content": f"Question: {self.question}"},
            {"role": "assistant", "content": self.text},
        ]


def one_line(text: str) -> str:
    """Text from outside as one line in which no chat template's marks can stand."""
    return " ".join(text.replace("<|", "< |").split())

"""Playing a trajectory with the real tools and noting what each role has to write."""

from __future__ import annotations

from dataclasses import dataclass, field

from lragent.agents.prompts import FINISH, Message, Role, Trajectory
from lragent.agents.tools import DocumentStore, Toolbox, document_toolbox
from lragent.agents.tools.passages import split_sentences

_NOT_A_PAGE = ("No page ", "No sentence ", "No more sentence ", "Nothing found ")


@dataclass(frozen=True)
class Sample:
    """What `role` writes (`output`) when it continues the last message of `input`."""

    role: Role
    input: list[Message]
    output: str


@dataclass
class Script:
    """A trajectory in the making.

    `seen` holds the observations that show text of a page. `samples` holds one sample a role and
    step: plan's thought and tool name together (they follow each other in one text), act's
    argument, reflect's thought and verdict together.
    """

    question: str
    store: DocumentStore
    samples: list[Sample] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._trajectory = Trajectory(self.question)
        self._tools: Toolbox = document_toolbox(self.store)

    def act(self, thought: str, tool: str, argument: str, teach: bool = True) -> str:
        """One step; returns the observation ("" for Finish). `teach` False notes no samples."""
        t = self._trajectory
        t.open_thought()
        before = t.messages()
        self._write(f" {thought}")
        t.open_action()
        self._write(f" {tool}")
        t.open_argument()
        if teach:
            self._note(Role.PLAN, before)
        before = t.messages()
        self._write(argument)
        if teach:
            self.samples.append(Sample(Role.ACT, before, f"{argument}]"))
        t.close_argument()
        if tool == FINISH:
            return ""
        observation = self._tools.call(tool, argument).text
        t.observe(observation)
        if not observation.startswith(_NOT_A_PAGE):
            self.seen.append(observation)
        return observation

    def finish(self, thought: str, answer: str, teach: bool = True) -> None:
        """The step that answers."""
        self.act(thought, FINISH, answer, teach)

    def reflect(self, thought: str, right: bool) -> None:
        """The judgement after Finish."""
        t = self._trajectory
        t.open_thought()
        before = t.messages()
        self._write(f" {thought}")
        t.open_verdict()
        verdict = "right" if right else "wrong"
        self._write(verdict)
        written = t.text[len(before[-1]["content"]) :]
        self.samples.append(Sample(Role.REFLECT, before, f"{written}]"))
        t.close_argument()

    def sentences(self) -> list[str]:
        """Sentences of all observations, without the titles before them."""
        return [sentence for text in self.seen for sentence in self.split(text)]

    @staticmethod
    def split(observation: str) -> list[str]:
        """Sentences of one observation, without the title before them."""
        return split_sentences(observation.split(": ", 1)[-1])

    def _write(self, text: str) -> None:
        if "\n" in text:
            raise ValueError(f"a turn is one line, but got {text!r}")
        self._trajectory.write(text)

    def _note(self, role: Role, before: list[Message]) -> None:
        start = len(before[-1]["content"])
        self.samples.append(Sample(role, before, self._trajectory.text[start:]))

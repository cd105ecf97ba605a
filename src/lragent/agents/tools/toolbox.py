"""The tools that a run may call, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lragent.agents.tools.calculator import CalculationError, calculate
from lragent.agents.tools.documents import DocumentStore
from lragent.agents.tools.reader import Reader

Tool = Callable[[str], str]
"""A tool takes its argument and returns the observation; it may raise ToolError."""


class ToolError(ValueError):
    """A tool cannot answer; the message becomes the observation."""


@dataclass(frozen=True)
class Observation:
    """A tool's answer; `valid` is False when the call itself was malformed."""

    text: str
    valid: bool = True


class Toolbox:
    """Calls tools by name; whatever goes wrong in a call becomes its observation.

    Attributes:
        errors: calls so far that named no tool, lacked an argument, or failed.
    """

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.errors = 0
        self._tools = dict(tools)
        self._names = {name.lower(): name for name in self._tools}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tools."""
        return tuple(self._tools)

    def call(self, name: str, argument: str) -> Observation:
        """Run the tool called `name` (case does not matter)."""
        self.errors += 1  # until it has gone well
        known = self._names.get(name.strip().lower())
        if known is None:
            choice = ", ".join([*self._tools, "Finish"])
            return Observation(f"There is no tool {name.strip()!r}. Tools: {choice}.", valid=False)
        argument = argument.strip()
        if not argument:
            return Observation(f"{known} needs an argument in brackets.", valid=False)
        try:
            found = Observation(self._tools[known](argument))
        except (ToolError, CalculationError) as error:
            return Observation(f"Error: {error}.")
        except Exception as error:  # a user's own tool may raise anything; the run goes on
            return Observation(f"Error: {known} failed: {type(error).__name__}: {error}.")
        self.errors -= 1
        return found


def document_toolbox(store: DocumentStore) -> Toolbox:
    """Search, Retrieve, Lookup and Calculate over `store`, with the state of one run."""
    reader = Reader(store)
    return Toolbox(
        {
            "Search": reader.search,
            "Retrieve": reader.retrieve,
            "Lookup": reader.lookup,
            "Calculate": calculate,
        }
    )

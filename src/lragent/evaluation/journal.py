"""What was measured so far, in a file that a later run goes on with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lragent.evaluation.cases import Series
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.meter import Measurement
from lragent.files import write_atomically


class Keyed(BaseModel):
    """A result; `key` says what it is the result of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str


class CaseResult(Keyed):
    """A measured case; `context` and `output` are counts of tokens."""

    series: Series
    role: str
    context: int
    output: int
    arms: tuple[Measurement, ...]


class _Header(BaseModel):
    """First line of the file: what its measurements depend on."""

    identity: dict[str, Any]


Result = TypeVar("Result", bound=Keyed)


class Journal(Generic[Result]):
    """Results by key, one line of JSON each, written as they come.

    Args:
        path: the file; made with its folder when it is not there.
        kind: of the results.
        identity: what the measurements depend on, in plain JSON types.

    Raises:
        EvaluationError: the file is damaged, or holds measurements of something else.
    """

    def __init__(self, path: Path, kind: type[Result], identity: dict[str, Any]):
        self._path = path
        self._kind = kind
        self.results: dict[str, Result] = {}
        if path.exists():
            self._read(identity)
        else:
            write_atomically(path, _Header(identity=identity).model_dump_json() + "\n")

    def add(self, result: Result) -> None:
        """Keep a result."""
        self._append(result)
        self.results[result.key] = result

    def _append(self, line: BaseModel) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")

    def _read(self, identity: dict[str, Any]) -> None:
        data = self._path.read_bytes()
        # a killed run, or a full disk, may have left half a line
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(self._path, len(whole))
        try:
            first, *rest = whole.split(b"\n")[:-1]
            found = _Header.model_validate_json(first).identity
            results = [self._kind.model_validate_json(line) for line in rest]
        except (ValueError, ValidationError) as error:
            raise EvaluationError(
                f"{self._path} is no file of measurements; remove it, or choose another --out"
            ) from error
        if found != identity:
            other = [name for name in identity if found.get(name) != identity[name]]
            raise EvaluationError(
                f"{self._path} holds measurements of another evaluation ({', '.join(other)} "
                "differ); choose another --out, or remove the folder"
            )
        self.results = {result.key: result for result in results}

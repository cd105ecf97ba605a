"""A task: questions, the documents that answer them, and how answers are scored."""

from __future__ import annotations

import gzip
from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lragent.agents import DocumentStore, exact_match, f1_score
from lragent.agents.prompts import one_line
from lragent.content_hash import ContentHash
from lragent.evaluation.errors import EvaluationError

Pages = tuple[tuple[str, str], ...]
"""Documents as (title, text)."""


class Question(BaseModel):
    """A question with what counts as its answer.

    Attributes:
        id: tells the questions of a task apart.
        question: as the agents read it, options included.
        answers: the right answer and its other names.
        choices: the options, where it is a multiple-choice question.
        pages: documents of its own; where there are none, the task's are searched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    pages: Pages = ()

    @property
    def key(self) -> str:
        """What its answers are kept under: a data set may change and keep its ids."""
        content = ContentHash("question").text(self.model_dump_json()).hexdigest()
        return f"{self.id} {content[:16]}"

    def exact(self, answer: str | None) -> bool:
        """Whether `answer` is right: the right option, or equal after HotpotQA's normalisation."""
        if answer is None:
            return False
        if self.choices:
            return self._chosen(answer) == self.answers[0]
        return any(exact_match(answer, right) for right in self.answers)

    def f1(self, answer: str | None) -> float:
        """Word F1 with the closest right answer; for multiple choice 1 or 0."""
        if answer is None or self.choices:
            return float(self.exact(answer))
        return max(f1_score(answer, right) for right in self.answers)

    def _chosen(self, answer: str) -> str | None:
        """The option that is meant: by its text, its letter, or its text but for case and signs."""
        answer = one_line(answer)
        same = [c for c in self.choices if one_line(c) == answer]
        letter = answer.strip("(). ").upper()
        if not same and len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(self.choices):
            same = [self.choices[ord(letter) - ord("A")]]
        alike = same or [c for c in self.choices if exact_match(answer, c)]
        return alike[0] if len(alike) == 1 else None


class Task(BaseModel):
    """Questions, and documents that all of them search (none where each has its own)."""

    model_config = ConfigDict(extra="forbid")

    name: str
    questions: tuple[Question, ...]
    pages: Pages = ()

    @cached_property
    def library(self) -> DocumentStore:
        """The documents of all questions."""
        return DocumentStore(self.pages)

    def store(self, question: Question) -> DocumentStore:
        """The documents that may be searched for a question."""
        return DocumentStore(question.pages) if question.pages else self.library

    def save(self, path: Path) -> None:
        """Write the task as one gzipped JSON file."""
        path.write_bytes(gzip.compress(self.model_dump_json().encode(), mtime=0))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a saved task.

        Raises:
            EvaluationError: the file is missing, or no task.
        """
        try:
            return cls.model_validate_json(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError, ValidationError) as error:
            raise EvaluationError(f"{path} is no saved task: {error}") from error

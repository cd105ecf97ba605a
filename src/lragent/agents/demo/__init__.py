"""The bundled documents, about an invented island republic, and questions on them.

No model can know the answers: they have to be found in the documents.
"""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lragent.agents.tools import DocumentStore


class DemoQuestion(BaseModel):
    """A question, its answer, and the titles of the two documents that give it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    answer: str
    gold_titles: tuple[str, str]
    type: Literal["bridge", "comparison", "arithmetic"]


def demo_store() -> DocumentStore:
    """The bundled documents."""
    with as_file(files(__name__) / "documents") as folder:
        return DocumentStore.from_folder(Path(folder))


def demo_questions() -> list[DemoQuestion]:
    """The bundled questions."""
    text = (files(__name__) / "questions.json").read_text(encoding="utf-8")
    return [DemoQuestion.model_validate(item) for item in json.loads(text)]

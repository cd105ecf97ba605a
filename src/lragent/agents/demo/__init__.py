"""The bundled documents, about an invented island republic, questions on them, and adapters.

No model can know the answers: they have to be found in the documents.
"""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lragent.adapters.errors import AdapterError
from lragent.agents.prompts import Role
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


def demo_text() -> str:
    """The bundled documents, one after the other in the order of their names."""
    with as_file(files(__name__) / "documents") as folder:
        paths = sorted(Path(folder).iterdir())
        return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def demo_questions() -> list[DemoQuestion]:
    """The bundled questions."""
    text = (files(__name__) / "questions.json").read_text(encoding="utf-8")
    return [DemoQuestion.model_validate(item) for item in json.loads(text)]


def demo_adapters() -> dict[str, Path]:
    """The bundled PEFT folders of SmolLM2-135M-Instruct by role.

    Raises AdapterError when this installation lacks one.
    """
    # A package that lies in a zip file has no folders to load from; wheels are always unpacked.
    root = Path(str(files(__name__))) / "adapters"
    folders = {role.value: root / role.value for role in Role}
    missing = [str(f) for f in folders.values() if not (f / "adapter_config.json").is_file()]
    if missing:
        raise AdapterError(
            f"the bundled adapters are missing: {', '.join(missing)}; reinstall lragent, or name "
            "your own adapter folders"
        )
    return folders

"""Tasks from files of a data folder, or from the Hugging Face hub by the `datasets` library."""

from __future__ import annotations

import gzip
import html
import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from lragent.agents.trajectories.choices import ChoiceQuestion, solved_pages
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.tasks.questions import Pages, Question, Task
from lragent.files import expanded

DATA_VARIABLE = "LRAGENT_DATA"
LIBRARY = 4500
"""Solved questions of the train split that ScienceQA's agents search; training uses the rest."""


@dataclass(frozen=True)
class Source:
    """Where a task's questions come from.

    Attributes:
        file, solved: of the data folder; `solved` are the solved questions that are searched.
        hub: name of the data set on the hub, its configuration and split.
    """

    file: str
    hub: tuple[str, str | None, str]
    solved: str | None = None


TASKS: Mapping[str, Source] = {
    "hotpotqa": Source("hotpotqa_dev.jsonl.gz", ("hotpotqa/hotpot_qa", "distractor", "validation")),
    "2wiki": Source("2wiki_dev.jsonl.gz", ("framolfese/2WikiMultihopQA", None, "validation")),
    "musique": Source("musique_eval.jsonl.gz", ("dgslibisey/MuSiQue", None, "validation")),
    "scienceqa": Source(
        "scienceqa_text_test.jsonl.gz",
        ("derek-thomas/ScienceQA", None, "test"),
        "scienceqa_text_train.jsonl.gz",
    ),
}


def read_task(
    name: str,
    folder: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    *,
    hub: bool = False,
) -> Task:
    """The questions of a task, in a seeded order; a larger `count` begins with the same ones.

    Args:
        name: one of `TASKS`.
        folder: holds the task's files; default `$LRAGENT_DATA`. A line of a file is a record as the
            data sets' authors publish them: `id`, `question`, `answer`, and `context` (a list of
            `[title, [sentence, …]]`) or `choices`.
        count: most questions.
        seed: of the order.
        hub: take the records from the hub instead, by the `datasets` library.

    Raises:
        EvaluationError: no such task, folder or file, a record that cannot be read, or `datasets`
            is missing.
    """
    if name not in TASKS:
        raise EvaluationError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    source = TASKS[name]
    data_set, configuration, split = source.hub

    def rows(file: str, split: str) -> Iterator[Any]:
        if hub:
            return _of_hub(data_set, configuration, split)
        return _of_file(_data_folder(folder) / file)

    pages: Pages = ()
    if source.solved is None:
        questions = [_question(row) for row in rows(source.file, split)]
    else:
        questions = [_choice(found) for found in choice_questions(rows(source.file, split))]
        solved = islice(choice_questions(rows(source.solved, "train")), LIBRARY)
        pages = tuple(solved_pages(solved))
    random.Random(seed).shuffle(questions)
    return Task(name=name, questions=tuple(questions[:count]), pages=pages)


def choice_questions(rows: Iterable[Any]) -> Iterator[ChoiceQuestion]:
    """The records of a multiple-choice data set that have no image."""
    for number, row in enumerate(rows):
        record = _parse(_Choices, row)
        if row.get("image") is None:
            hint = row.get("hint") or ""
            question = f"{hint}\n{record.question}" if hint else record.question
            yield ChoiceQuestion(
                str(row.get("id", number)), question, tuple(record.choices), record.answer
            )


def solved_and_rest(folder: Path) -> tuple[list[ChoiceQuestion], list[ChoiceQuestion]]:
    """ScienceQA's train split: the questions that are searched, and those left to train on."""
    file = TASKS["scienceqa"].solved
    assert file is not None
    found = list(choice_questions(_of_file(folder / file)))
    return found[:LIBRARY], found[LIBRARY:]


_Record = TypeVar("_Record", bound=BaseModel)


class _Context(BaseModel):
    title: list[str]
    sentences: list[list[str]]


class _Paragraph(BaseModel):
    title: str
    paragraph_text: str


class _Pages(BaseModel):
    """A multi-hop question: the published form, or that of the hub's copies."""

    id: Annotated[str, Field(validation_alias=AliasChoices("id", "_id"))]
    question: str
    answer: str
    answer_aliases: list[str] = []
    context: list[tuple[str, list[str]]] | _Context = []
    paragraphs: list[_Paragraph] = []

    def pages(self) -> Iterator[tuple[str, str]]:
        context = self.context
        if isinstance(context, _Context):
            context = list(zip(context.title, context.sentences, strict=True))
        for title, sentences in context:
            yield title, " ".join(part.strip() for part in sentences)
        for paragraph in self.paragraphs:
            yield paragraph.title, paragraph.paragraph_text


class _Choices(BaseModel):
    question: str
    choices: list[str]
    answer: int


def _question(row: Any) -> Question:
    record = _parse(_Pages, row)
    pages = [(_clean(title), _clean(text)) for title, text in record.pages()]
    kept = tuple((title, text) for title, text in pages if title and text)
    if not kept:
        raise EvaluationError(f"the question {record.id} has no pages to read")
    answers = (record.answer, *record.answer_aliases)
    return Question(
        id=record.id,
        question=_clean(record.question),
        answers=tuple(map(_clean, answers)),
        pages=kept,
    )


def _choice(question: ChoiceQuestion) -> Question:
    return Question(
        id=question.id,
        question=question.asked,
        answers=(question.choices[question.answer],),
        choices=question.choices,
    )


def _data_folder(folder: Path | None) -> Path:
    named = folder or os.environ.get(DATA_VARIABLE)
    if not named:
        raise EvaluationError(
            f"name the folder of the questions (or set {DATA_VARIABLE}), or take them from the hub"
        )
    return expanded(named)


def _of_file(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise EvaluationError(f"{path} is missing; name the folder that holds {path.name}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise EvaluationError(f"{path}, line {number}: {error}") from error


def _of_hub(name: str, configuration: str | None, split: str) -> Iterator[Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise EvaluationError(
            "questions from the hub need the datasets library; run: pip install datasets"
        ) from error
    yield from load_dataset(name, configuration, split=split)


def _parse(kind: type[_Record], row: Any) -> _Record:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise EvaluationError(f"a record cannot be read: {place}: {first['msg']}") from error


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).split())

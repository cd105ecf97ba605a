"""HotpotQA records: reading, and finding their two gold pages where a record does not name them."""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from lragent.agents.tools.documents import DocumentStore
from lragent.agents.trajectories.spans import contains, mention

TRAIN_FILE = "hotpotqa_train.jsonl.gz"


class RecordError(ValueError):
    """The data folder cannot be used; the message says which file and why."""


class _Line(BaseModel):
    """The fields of a data file that are used here."""

    id: str
    split: Literal["train"]
    question: str
    answer: str
    type: str | None = None
    gold_titles: list[str] | None = None
    context: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Record:
    """A question with its pages; `gold` are the two pages to read, in no special order."""

    id: str
    question: str
    answer: str
    comparison: bool
    gold: tuple[str, str]
    pages: tuple[tuple[str, str], ...]

    def store(self) -> DocumentStore:
        """The record's pages as the documents of the tools."""
        return DocumentStore(self.pages)


def read_records(data_folder: Path) -> Iterator[Record]:
    """Usable records of the train file in `data_folder`, in the file's order.

    Records whose two gold pages are neither given nor certain are left out. Raises RecordError for
    a missing file, a line that is no record, and a record that is not of the train split.
    """
    path = Path(data_folder) / TRAIN_FILE
    if not path.is_file():
        raise RecordError(f"{path} is missing; give the folder that holds {TRAIN_FILE}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = parse_record(line)
            except ValidationError as error:
                reason = error.errors()[0]
                place = ".".join(map(str, reason["loc"]))
                raise RecordError(f"{path} line {number}: {place}: {reason['msg']}") from error
            if record is not None:
                yield record


def parse_record(line: str) -> Record | None:
    """One JSON line as a record; None when its gold pages are unknown."""
    raw = _Line.model_validate_json(line)
    pages = {
        _clean(title): _clean(" ".join(part.strip() for part in sentences))
        for title, sentences in raw.context
    }
    pages = {title: text for title, text in pages.items() if title and text}
    question, answer = _clean(raw.question), _clean(raw.answer)
    gold = [_clean(title) for title in raw.gold_titles or []]
    if len(set(gold) & set(pages)) != 2:
        gold = _infer_gold(question, answer, pages) if raw.gold_titles is None else []
    if len(gold) != 2 or not answer:
        return None
    return Record(
        id=raw.id,
        question=question,
        answer=answer,
        comparison=raw.type == "comparison" or (raw.type is None and _compares(question, gold)),
        gold=(gold[0], gold[1]),
        pages=tuple(pages.items()),
    )


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).split())


def _compares(question: str, gold: list[str]) -> bool:
    both = all(mention(title, question) for title in gold)
    return both and bool(re.search(r"\b(or|both|and)\b", question))


def _infer_gold(question: str, answer: str, pages: dict[str, str]) -> list[str]:
    """The gold pages when they are certain, else nothing.

    Comparison: the question names exactly two of the pages. Bridge: it names one page, that page
    names one other, and among those two and the rest the answer stands in that other only.
    """
    named = [title for title in pages if mention(title, question)]
    if len(named) == 2 and _compares(question, named):
        return named
    holding = [title for title, text in pages.items() if contains(f"{title} {text}", answer)]
    if len(named) == 1 and len(holding) == 1 and named != holding:
        first, second = named[0], holding[0]
        if mention(second, pages[first]):
            return [first, second]
    return []

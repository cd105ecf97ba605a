"""A store of titled documents: from a folder of text files, or from memory."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lragent.agents.tools.passages import clip, split_passages, split_sentences
from lragent.agents.tools.search_index import SearchIndex, fold

SUFFIXES = (".md", ".txt")
_MOST_BYTES = 64 << 20  # of all files; a search index takes many times that
_LONGEST_TITLE = 200


class DocumentError(ValueError):
    """The documents cannot be read; the message says which and why."""


@dataclass(frozen=True)
class Document:
    """One page: `title` and `text`, whose paragraphs are separated by blank lines."""

    title: str
    text: str

    @cached_property
    def passages(self) -> tuple[str, ...]:
        """The text in order, in passages short enough for an observation."""
        paragraphs = re.split(r"\n\s*\n", self.text)
        return tuple(piece for text in paragraphs for piece in split_passages(text))

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """All sentences in order."""
        return tuple(
            sentence
            for paragraph in re.split(r"\n\s*\n", self.text)
            for sentence in split_sentences(paragraph)
        )


class DocumentStore:
    """Documents with lookup by title and BM25 search over their passages."""

    def __init__(self, documents: Iterable[Document | tuple[str, str]]) -> None:
        self.documents: list[Document] = []
        taken: set[str] = set()
        number = Counter[str]()
        for item in documents:
            document = item if isinstance(item, Document) else Document(*item)
            title = document.title
            while document.title in taken:
                number[title] += 1
                document = Document(f"{title} ({number[title] + 1})", document.text)
            taken.add(document.title)
            self.documents.append(document)
        if not self.documents:
            raise DocumentError("there is no document to search; give at least one")

    @classmethod
    def from_folder(cls, folder: str | Path) -> DocumentStore:
        """Read every .md and .txt file under `folder`, in the order of their paths.

        The title is a file's first Markdown heading, else the file's name without suffix.
        Files that cannot be read are left out, with a UserWarning for each, and so are links that
        lead out of the folder. Raises DocumentError for a missing folder, one without a readable
        file with text, and more text than can be searched.
        """
        root = Path(folder)
        if not root.is_dir():
            raise DocumentError(f"{root} is not a folder; give a folder with .md or .txt files")
        inside = root.resolve()
        paths = sorted(
            path
            for path in root.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and path.resolve().is_relative_to(inside)
        )
        _check_size(paths)
        documents = []
        for path in paths:
            try:
                document = _read(path)
            except DocumentError as error:
                warnings.warn(f"left out: {error}", UserWarning, stacklevel=2)
            else:
                documents += [document] if document.text else []
        if not documents:
            raise DocumentError(f"{root} holds no .md or .txt file with text")
        return cls(documents)

    @cached_property
    def _by_key(self) -> dict[str, Document]:
        """Folded titles, and titles without a trailing "(…)" where that stays unique."""
        short: dict[str, list[Document]] = {}
        for document in self.documents:
            short.setdefault(title_key(document.title, short=True), []).append(document)
        keys = {key: found[0] for key, found in short.items() if len(found) == 1}
        return keys | {title_key(d.title): d for d in reversed(self.documents)}

    @cached_property
    def _passage_index(self) -> tuple[SearchIndex, list[tuple[Document, int]]]:
        places = [(d, number) for d in self.documents for number in range(len(d.passages))]
        # The title counts with each passage: passages after the first seldom repeat it.
        return SearchIndex([f"{d.title} {d.passages[n]}" for d, n in places]), places

    @cached_property
    def _title_index(self) -> SearchIndex:
        return SearchIndex([document.title for document in self.documents])

    def find(self, title: str) -> Document | None:
        """The document of that title; case, accents and punctuation do not matter."""
        return self._by_key.get(title_key(title))

    def similar_titles(self, title: str, count: int = 3) -> list[str]:
        """Titles that share words with `title`, best first, then those whose text does."""
        found = [self.documents[i].title for i in self._title_index.top(title, count)]
        found += [document.title for document, _ in self.search(title, count)]
        return list(dict.fromkeys(found))[:count]

    def search(self, query: str, count: int = 1) -> list[tuple[Document, int]]:
        """The best passages by BM25 as (document, passage number), best first."""
        index, places = self._passage_index
        return [places[i] for i in index.top(query, count)]


def title_key(title: str, short: bool = False) -> str:
    """Title folded for comparison; `short` drops a trailing parenthesis."""
    if short:
        title = re.sub(r"\s*\([^()]*\)\s*$", "", title) or title
    return " ".join(re.findall(r"\w+", fold(title)))


def _check_size(paths: Iterable[Path]) -> None:
    total = 0
    for path in paths:
        total += path.stat().st_size
        if total > _MOST_BYTES:
            raise DocumentError(
                f"with {path} the documents have more than the {_MOST_BYTES >> 20} MiB that can be "
                "searched; leave some out"
            )


def _read(path: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path} is not UTF-8 text; save it as UTF-8 or remove it") from error
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror or error}") from error
    title = path.stem.encode("utf-8", "replace").decode()  # a name may be no text
    if path.suffix.lower() == ".md":
        heading = re.search(r"^#[ \t]+(\S.*)$", text, re.MULTILINE)
        if heading:
            title = heading.group(1).rstrip().rstrip("#").rstrip() or title
        text = re.sub(r"^#+\s.*$", "", text, flags=re.MULTILINE)
    return Document(clip(title, _LONGEST_TITLE), text.strip())

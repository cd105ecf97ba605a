"""Search, Retrieve and Lookup: one reader with one open page."""

from __future__ import annotations

from lragent.agents.tools.documents import Document, DocumentStore
from lragent.agents.tools.passages import clip
from lragent.agents.tools.search_index import fold


class Reader:
    """Reads a document store; Lookup goes on in the page that Search or Retrieve opened last."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._page: Document | None = None
        self._keyword = ""
        self._next = 0

    def _open(self, page: Document) -> None:
        self._page, self._keyword, self._next = page, "", 0

    def search(self, query: str) -> str:
        """Title and text of the passage that fits `query` best; opens its page."""
        found = self._store.search(query)
        if not found:
            return f"Nothing found for {clip(query, 80)}."
        page, number = found[0]
        self._open(page)
        return show(page.title, page.passages[number])

    def retrieve(self, title: str) -> str:
        """Start of the page called `title`, else titles like it."""
        page = self._store.find(title)
        if page is None:
            similar = self._store.similar_titles(title)
            hint = f" Similar titles: {'; '.join(similar)}." if similar else ""
            return f"No page {clip(title, 80)}.{hint}"
        self._open(page)
        return show(page.title, page.passages[0] if page.passages else "")

    def lookup(self, keyword: str) -> str:
        """The next sentence of the open page that contains `keyword`."""
        if self._page is None:
            return "No page is open. Retrieve a page first."
        wanted = fold(keyword)
        if wanted != self._keyword:
            self._keyword, self._next = wanted, 0
        for number in range(self._next, len(self._page.sentences)):
            if wanted in fold(self._page.sentences[number]):
                self._next = number + 1
                return clip(self._page.sentences[number])
        more = "more " if self._next else ""
        return f"No {more}sentence with {clip(keyword, 80)} in {self._page.title}."


def show(title: str, passage: str) -> str:
    """Observation of a page."""
    return f"{title}: {passage}"

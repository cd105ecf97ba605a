from __future__ import annotations

from pathlib import Path

import pytest

from lragent.agents.tools import DocumentError, DocumentStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "alba.md").write_text("# Alba (town)\n\nAlba is a town.\n\n## History\n\nOld.\n")
    (tmp_path / "River Oss.txt").write_text("\ufeffThe Oss is a river.\n", encoding="utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "holm.MD").write_text("Ida Holm is the mayor.")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.txt").write_text(" \n")
    return tmp_path


def test_folder_of_text_files(folder: Path):
    store = DocumentStore.from_folder(folder)
    assert [(d.title, d.text) for d in store.documents] == [
        ("River Oss", "The Oss is a river."),
        ("Alba (town)", "Alba is a town.\n\n\n\nOld."),
        ("holm", "Ida Holm is the mayor."),
    ]
    assert store.documents[1].passages == ("Alba is a town.", "Old.")


@pytest.mark.parametrize("title", ["Alba (town)", "alba", "ALBA (Town)", "Älba"])
def test_titles_are_found_in_other_spellings(folder: Path, title: str):
    found = DocumentStore.from_folder(folder).find(title)
    assert found is not None
    assert found.title == "Alba (town)"


def test_short_title_must_be_unique():
    store = DocumentStore([("Alba (town)", "A town."), ("Alba (ship)", "A ship.")])
    assert store.find("Alba") is None
    assert set(store.similar_titles("Alba")) == {"Alba (town)", "Alba (ship)"}
    both = DocumentStore([("Alba", "A word."), ("Alba (ship)", "A ship.")])
    assert [both.find(t).text for t in ("Alba", "Alba (ship)")] == ["A word.", "A ship."]  # pyright: ignore[reportOptionalMemberAccess]


def test_equal_titles_are_numbered():
    store = DocumentStore([("Notes", "one"), ("Notes", "two"), ("Notes", "three")])
    assert [d.title for d in store.documents] == ["Notes", "Notes (2)", "Notes (3)"]


def test_search_ranks_passages_and_forgives_accents():
    store = DocumentStore(
        [("Alba", "A town.\n\nIts old bridge is of stone."), ("Oss", "A river near the town.")]
    )
    assert [(d.title, n) for d, n in store.search("stone bridge", 2)] == [("Alba", 1)]
    assert store.search("stöne")[0][0].title == "Alba"
    assert store.search("the of") == store.search("nothing like it") == store.search("") == []


def test_store_without_a_single_word_can_be_searched():
    assert DocumentStore([("?", "!")]).search("town") == []


def test_similar_titles_fall_back_to_the_text():
    store = DocumentStore([("Alba", "A town."), ("Oss", "A river.")])
    assert store.similar_titles("long river") == ["Oss"]
    assert store.similar_titles("xyz") == []


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_folders_without_documents_are_refused(tmp_path: Path, kind: str):
    path = tmp_path / "docs"
    if kind == "file":
        path.write_text("x")
    if kind == "empty":
        path.mkdir()
    message = "holds no .md or .txt" if kind == "empty" else "is not a folder"
    with pytest.raises(DocumentError, match=message):
        DocumentStore.from_folder(path)


def test_files_that_are_no_text_are_left_out_by_name(folder: Path):
    (folder / "bad.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.warns(UserWarning, match=r"left out: .*bad\.txt is not UTF-8"):
        store = DocumentStore.from_folder(folder)
    assert [d.title for d in store.documents] == ["River Oss", "Alba (town)", "holm"]


def test_similar_titles_by_words_of_the_text_too():
    store = DocumentStore([("Holm bridge", "Of stone."), ("Oss", "The old bridge is here.")])
    assert store.similar_titles("old bridge") == ["Holm bridge", "Oss"]


def test_no_documents_at_all():
    with pytest.raises(DocumentError, match="no document"):
        DocumentStore([])

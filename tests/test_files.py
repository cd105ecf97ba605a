from __future__ import annotations

import os
from pathlib import Path

import pytest

from lragent.files import write_atomically


def test_writes_and_replaces(tmp_path: Path):
    target = tmp_path / "new" / "file.txt"
    write_atomically(target, "one\n")
    write_atomically(target, "zwei ü\n")
    assert target.read_text(encoding="utf-8") == "zwei ü\n"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
):
    target = tmp_path / "file.txt"
    write_atomically(target, "old")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if broken == "fsync" else Path, broken, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]

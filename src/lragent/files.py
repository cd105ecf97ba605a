"""Writing a file as a whole or not at all, and paths as users write them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """`path` with a leading `~` as a home folder; as it stands where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8), making its folder; on failure no partial file stays.

    Raises OSError; the former file, if any, is then untouched.
    """
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write, which replaces `path` at the end; on failure no partial file stays.

    Raises OSError; the former file, if any, is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is as readable as any new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise

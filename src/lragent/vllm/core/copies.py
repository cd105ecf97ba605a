"""A folder of this process for copies of adapters, and what ended processes left of theirs.

vLLM kills its engine core when a server stops, so that it cannot clean up. A process therefore
holds a lock on its folder, which the system gives up for it; a folder whose lock is free has lost
its process. (Process ids would not do: those of another container look dead from here.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path

PREFIX = "lragent-adapters-"
_LOCK = "in-use"


class CopyFolder:
    """A new folder, to be deleted with `close` or when the process ends in order.

    Args:
        root: where it lies; the system's temporary folder when left out.
    """

    def __init__(self, root: Path | None = None):
        root = root or Path(tempfile.gettempdir())
        sweep(root)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        taken = self.path / f"{_LOCK}.new"
        lock = os.open(taken, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        taken.rename(self.path / _LOCK)  # nobody sees the file without its lock
        self._delete = weakref.finalize(self, _delete, self.path, lock)

    def new(self) -> Path:
        """A new folder in it."""
        return Path(tempfile.mkdtemp(dir=self.path))

    def close(self) -> None:
        """Delete it, with all that is in it."""
        self._delete()


def sweep(root: Path) -> None:
    """Delete the folders of processes that have ended."""
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or in use
            lock = os.open(folder / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _delete(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)

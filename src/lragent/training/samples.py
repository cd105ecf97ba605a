"""Reading role samples: JSONL of `{"role": …, "input": …, "output": …}`."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, cast

from pydantic import BaseModel, Field, ValidationError

from lragent.adapters import near_misses
from lragent.training.errors import TrainingError

_Text = Annotated[str, Field(min_length=1)]


_LONGEST_LINE = 16 << 20  # bytes; a compressed file may hold a line of any length


class Message(BaseModel):
    """One chat message."""

    role: _Text
    content: str


class Sample(BaseModel):
    """What `role` should write (`output`) after `input`.

    `input` is plain text, or chat messages: when the last one is the assistant's, the output
    continues it; otherwise the output is a new assistant message. The output is learnt as it
    stands, so it holds the stop string with which the role ends its turn.
    """

    role: _Text
    input: _Text | Annotated[list[Message], Field(min_length=1)]
    output: _Text


@dataclass(frozen=True)
class DataFile:
    """A sample file as it was read: name, SHA-256 of its content, number of samples."""

    name: str
    sha256: str
    samples: int


def read_samples(
    paths: Sequence[Path], roles: Sequence[str]
) -> tuple[dict[str, list[Sample]], list[DataFile]]:
    """Read sample files (JSONL, also gzipped) and sort the samples by role.

    Raises:
        TrainingError: a file that cannot be read; a line that is no sample or names an unknown
            role, with file and line number; a role without samples.
    """
    by_role: dict[str, list[Sample]] = {role: [] for role in roles}
    files = []
    for path in paths:
        digest = hashlib.sha256()
        count = 0
        for number, line in enumerate(_lines(path), start=1):
            digest.update(line)
            if not line.strip():
                continue
            sample = _parse(line, f"{path}, line {number}")
            if sample.role not in by_role:
                raise TrainingError(
                    f"{path}, line {number}: unknown role {sample.role!r:.80}"
                    f"{near_misses(sample.role, roles)} Name all roles: --roles of lragent train, "
                    "--adapter of lragent eval."
                )
            by_role[sample.role].append(sample)
            count += 1
        files.append(DataFile(path.name, digest.hexdigest(), count))
    return by_role, files


def require_every_role(by_role: dict[str, list[Sample]]) -> None:
    """Raise a TrainingError when a role has nothing to learn from."""
    missing = [role for role, samples in by_role.items() if not samples]
    if missing:
        raise TrainingError(
            f"no samples for {', '.join(missing)}: add them, or name only the other roles with "
            "--roles"
        )


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            while line := file.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE:
                    raise TrainingError(
                        f"{path} has a line of more than {_LONGEST_LINE >> 20} MiB, which is no "
                        "sample; a sample is one line"
                    )
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _parse(line: bytes, place: str) -> Sample:
    try:
        return Sample.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if field.startswith("input."):
            # One message for the text and the chat form, of which either could have been meant.
            raise TrainingError(
                f"{place}: input: needs text or at least one message with role and content"
            ) from error
        raise TrainingError(f"{place}: {field + ': ' if field else ''}{first['msg']}") from error

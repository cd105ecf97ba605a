"""Sample files: what is read, and which line is named when one is bad."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lragent.training.errors import TrainingError
from lragent.training.samples import read_samples, require_every_role

GOOD = '{"role": "plan", "input": "Q", "output": " A\\n"}\n'


def test_plain_and_gzipped_files_are_sorted_by_role(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD + "\n" + GOOD.replace("plan", "act"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(GOOD.encode()))

    samples, files = read_samples([tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"], ("plan", "act"))

    assert {role: len(own) for role, own in samples.items()} == {"plan": 2, "act": 1}
    assert samples["plan"][0].output == " A\n"
    assert [(file.name, file.samples) for file in files] == [("a.jsonl", 2), ("b.jsonl.gz", 1)]
    assert files[0].sha256 != files[1].sha256


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"role": "plan", "input": "Q"', "line 2: Invalid JSON"),
        ('{"role": "plan", "input": "Q"}', "line 2: output: Field required"),
        ('{"role": "plan", "input": "Q", "output": ""}', "line 2: output: .*at least 1 char"),
        (
            '{"role": "plan", "input": [], "output": "A"}',
            "line 2: input: needs text or at least one message",
        ),
        (
            '{"role": "plan", "input": 3, "output": "A"}',
            "line 2: input: needs text or at least one",
        ),
        (
            '{"role": "plam", "input": "Q", "output": "A"}',
            "line 2: unknown role 'plam'; did you mean 'plan'",
        ),
    ],
    ids=["json", "missing", "empty-output", "empty-input", "number", "unknown-role"],
)
def test_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(GOOD + line + "\n")

    with pytest.raises(TrainingError, match=message):
        read_samples([path], ("plan", "act"))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(GOOD.encode() * 50)[:-20])

    with pytest.raises(TrainingError, match=r"missing\.jsonl cannot be read"):
        read_samples([tmp_path / "missing.jsonl"], ("plan",))
    with pytest.raises(TrainingError, match=r"cut\.jsonl\.gz cannot be read"):
        read_samples([cut], ("plan",))


def test_role_without_samples_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD)
    samples, _ = read_samples([path], ("plan", "act"))

    with pytest.raises(TrainingError, match="no samples for act"):
        require_every_role(samples)

from __future__ import annotations

from pathlib import Path

import pytest

from lragent.evaluation.cases import Series
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.journal import CaseResult, Journal
from lragent.evaluation.meter import Measurement

ARM = Measurement(policy="isolated", readers=(), nll=0.1, kl=0.0, agreeing=3, exact=True)


def result(key: str) -> CaseResult:
    return CaseResult(key=key, series=Series.READER, role="a", context=9, output=3, arms=(ARM,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "new" / "measurements.jsonl"
    journal = Journal(file, CaseResult, {"model": "m"})
    journal.add(result("one"))
    journal.add(result("two"))
    return file


def test_results_are_found_again(path: Path) -> None:
    again = Journal(path, CaseResult, {"model": "m"})
    assert again.results == {key: result(key) for key in ("one", "two")}
    again.add(result("three"))
    assert list(Journal(path, CaseResult, {"model": "m"}).results) == ["one", "two", "three"]


def test_half_a_line_is_measured_again(path: Path) -> None:
    path.write_text(path.read_text()[:-20])
    journal = Journal(path, CaseResult, {"model": "m"})
    assert list(journal.results) == ["one"]
    journal.add(result("two"))
    assert list(Journal(path, CaseResult, {"model": "m"}).results) == ["one", "two"]


def test_another_evaluation_is_refused(path: Path) -> None:
    before = path.read_text()
    with pytest.raises(EvaluationError, match=r"another evaluation \(model differ\)"):
        Journal(path, CaseResult, {"model": "other"})
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["", "x\n", '{"identity": {"model": "m"}}\n{"key": 1}\n'])
def test_other_files_are_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(EvaluationError, match="no file of measurements"):
        Journal(path, CaseResult, {"model": "m"})

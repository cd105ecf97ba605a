"""Whatever fails, at whichever call: the books are right, others' answers too, a retry succeeds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tests.adapters.factory import make_adapter
from tests.agents.test_trace import trace  # noqa: F401  # a fixture
from tests.engine.models import prompt_of, tiny_model
from tests.proof.failures import Point, until_it_fits, until_success
from tests.proof.points import LOAD, STEP, no_space

from lragent.adapters import AdapterError, read_adapter
from lragent.agents.trace import RunTrace, TraceWriteError
from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import GenerationFailedError
from lragent.evaluation.cases import Series
from lragent.evaluation.journal import CaseResult, Journal
from lragent.files import write_atomically
from lragent.sharing import Policy
from lragent.sharing.measured import MeasuredSharing, MeasuredSharingError, measured_policy
from lragent.training.config import TrainConfig
from lragent.training.record import open_record
from lragent.training.samples import DataFile

PAGE_BYTES = 3 * (2 * 2 * 8 * 8 + 8 * 2 * 4) * 4
PARAMS = SamplingParams(max_tokens=2, ignore_eos=True)
WORK = [("plan", 20, 0), ("act", 20, 0), (None, 9, 1)]
Answers = list[tuple[int, ...] | str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, model = tmp_path_factory.mktemp("failures"), tiny_model()
    plan = make_adapter(root / "plan", model, rank=4, seed=1)
    act = make_adapter(root / "act", model, rank=4, seed=2, share_a_with=plan)
    return {"plan": plan, "act": act, "new": make_adapter(root / "new", model, rank=4, seed=3)}


@pytest.fixture(scope="module", params=["isolated", "neutral"])
def engine(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[Engine]:
    """So few pages that they are evicted, and a prompt waits for another."""
    members = {name: folders[name] for name in ("plan", "act")}
    with Engine(
        (tiny_model(), None), members, request.param, page_size=8, kv_bytes=9 * PAGE_BYTES,
        lr_slots=2, debug=True,
    ) as engine:  # fmt: skip
        yield engine


def answers(engine: Engine) -> Answers:
    requests = [
        engine.submit(prompt_of(length, seed), adapter=name, sampling_params=PARAMS)
        for name, length, seed in WORK
    ]
    found: Answers = []
    for request in requests:
        try:
            found.append(request.result().token_ids)
        except GenerationFailedError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("point", STEP)
def test_a_step(engine: Engine, point: str):
    expected = answers(engine)
    assert not any(isinstance(answer, str) for answer in expected)
    engine._cache.reset()
    message, failures = str(STEP[point].error()), []

    def work() -> None:
        found = answers(engine)
        for answer, right in zip(found, expected, strict=True):
            assert answer == right or (isinstance(answer, str) and message in answer)
        failures.append(found != expected)

    def check() -> None:
        engine.check_integrity()
        assert engine.stats().pages["leased"] == 0
        assert answers(engine) == expected
        engine._cache.reset()  # else the next attempt would find everything

    calls = until_success(STEP[point], work, check)
    assert failures == [True] * calls + [False]


@pytest.mark.parametrize("point", LOAD)
def test_a_reload_beside_a_request(engine: Engine, folders: dict[str, Path], point: str):
    """Requests from before finish on the old weights; those from after have them if it failed."""
    prompt = prompt_of(20)

    def answer() -> tuple[int, ...]:
        return engine.generate(prompt, adapter="plan", sampling_params=PARAMS).token_ids

    old = answer()
    engine.reload_adapter("plan", folders["new"])
    new = answer()
    engine.reload_adapter("plan", folders["plan"])
    assert old != new
    loaded = []

    def work() -> None:
        bystander = engine.submit(prompt, adapter="plan", sampling_params=PARAMS)
        engine.step()
        try:
            engine.reload_adapter("plan", folders["new"])
        except (AdapterError, MemoryError, torch.OutOfMemoryError):
            loaded.append(False)
        else:
            loaded.append(True)
        assert bystander.result().token_ids == old

    def check() -> None:
        engine.check_integrity()
        assert answer() == (new if loaded[-1] else old)
        engine.reload_adapter("plan", folders["new"])
        assert answer() == new
        engine.reload_adapter("plan", folders["plan"])
        assert answer() == old

    until_success(LOAD[point], work, check)
    assert (loaded[0], loaded[-1]) == (False, True)


@pytest.mark.parametrize("point", LOAD)
def test_a_load_and_an_unload(engine: Engine, folders: dict[str, Path], point: str):
    loaded = []

    def work() -> None:
        try:
            engine.load_adapter("new", folders["new"], share=False)
        except (AdapterError, MemoryError, torch.OutOfMemoryError):
            loaded.append(False)
        else:
            loaded.append(True)
            engine.unload_adapter("new")

    def check() -> None:
        engine.check_integrity()
        assert engine.adapters == ("plan", "act")
        engine.load_adapter("new", folders["new"], share=False)
        assert (
            len(engine.generate(prompt_of(9), adapter="new", sampling_params=PARAMS).token_ids) == 2
        )
        engine.unload_adapter("new")

    until_success(LOAD[point], work, check)
    assert (loaded[0], loaded[-1]) == (False, True)


def test_an_engine_that_cannot_start(folders: dict[str, Path]):
    """The model is free for the next one."""
    model, members = tiny_model(), {name: folders[name] for name in ("plan", "act")}
    for point in ("file read", "tensors", "copy to the device"):

        def start() -> None:
            with suppress(AdapterError, torch.OutOfMemoryError):
                Engine((tiny_model(), None), members, "base+lr").close()

        until_success(LOAD[point], start, lambda: None)
    with Engine((model, None), members, "base+lr") as engine:
        assert len(answers(engine)) == len(WORK)


# ---- files


KEYS = ["one", "two", "drei\u2028ü"]


def result(key: str) -> CaseResult:
    return CaseResult(key=key, series=Series.READER, role="a", context=9, output=3, arms=())


def journal(path: Path) -> Journal[CaseResult]:
    return Journal(path / "measurements.jsonl", CaseResult, {"model": "m" * 500})


def measure(path: Path) -> None:
    """As an evaluation goes on."""
    mine = journal(path)
    for key in KEYS:
        if key not in mine.results:
            mine.add(result(key))


def test_the_journal_of_an_evaluation(tmp_path: Path):
    """Each attempt goes on where the disk was full before."""
    seen: list[int] = []

    def work() -> bool:
        with suppress(OSError):
            measure(tmp_path)
            return True
        return False

    def check() -> None:
        whole = journal(tmp_path).results
        assert whole == {key: result(key) for key in KEYS[: len(whole)]}
        seen.append(len(whole))

    assert until_it_fits(work, check, step=23) > 10
    assert sorted(seen) == seen
    assert seen[0] == 0
    assert seen[-1] == 3


def test_a_trace(trace: RunTrace, tmp_path: Path):  # noqa: F811
    file = tmp_path / "run.json"

    def work() -> bool:
        with suppress(TraceWriteError):
            trace.save(file)
            return True
        return False

    def check() -> None:
        assert [p.name for p in tmp_path.iterdir()] == ["run.json"] * file.exists()
        if file.exists():
            assert RunTrace.load(file) == trace

    assert until_it_fits(work, check) > 3


def test_a_measured_policy(folders: dict[str, Path], tmp_path: Path):
    """All members have it, or the group is refused."""
    adapters = {
        name: read_adapter(shutil.copytree(folders[name], tmp_path / name))
        for name in ("plan", "act")
    }
    found = MeasuredSharing(
        policy=Policy.BASE, members=sorted(a.digest for a in adapters.values()), base_model="m",
        nll_ratio=1.0, exact_points=0.0, lragent="1",
    )  # fmt: skip
    write = Point(no_space, ((Path, "replace"), (tempfile, "mkstemp")))
    saved = []

    def work() -> None:
        with suppress(OSError):
            found.save(adapters)
            saved.append(True)

    def check() -> None:
        if saved:
            assert measured_policy(adapters) is Policy.BASE
        else:
            with pytest.raises(MeasuredSharingError):
                measured_policy(adapters)
        found.save(adapters)
        assert measured_policy(adapters) is Policy.BASE
        for adapter in adapters.values():
            (adapter.path / "lragent-measured.json").unlink()

    assert until_success(write, work, check) == 4
    assert saved == [True]


def test_the_record_of_a_training_run(tmp_path: Path):
    config = TrainConfig(data=(tmp_path / "a",), model="m", out=tmp_path / "out")
    data = [DataFile("a", "1", 1)]

    def work() -> bool:
        with suppress(OSError):
            open_record(config, data)
            return True
        return False

    def check() -> None:
        assert not list(tmp_path.glob("out/.training*"))

    assert until_it_fits(work, check) > 3
    assert open_record(config, data).finished == {}


def test_a_file_as_a_whole_or_not_at_all(tmp_path: Path):
    file = tmp_path / "f"
    write_atomically(file, "old")

    def work() -> bool:
        with suppress(OSError):
            write_atomically(file, "new" * 100)
            return True
        return False

    def check() -> None:
        assert file.read_text() in ("old", "new" * 100)
        assert list(tmp_path.iterdir()) == [file]

    until_it_fits(work, check)

"""Key conformance: what agrees in every field is reused, what differs in one never is.

Every field of a key against every place at which something can hit. Each negative has its positive
control, since a cache that reuses nothing is safe too. The places of the plugin are in
tests/vllm/core/test_key_conformance.py.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tests.adapters.factory import edit_config, edit_tensors, make_adapter
from tests.engine.models import prompt_of, tiny_model
from tests.proof.description import ROOT, names
from tests.proof.key_rows import (
    ADAPTER,
    GROUP,
    MODULES,
    NOT_OF_THE_SLOT,
    SCOPE,
    TARGETS,
    TOKENS,
    Edit,
    Place,
)

from lragent.adapters import AdapterError, read_adapter
from lragent.agents import WorkflowOptions
from lragent.agents.prompts import Turn
from lragent.cache import CacheClient, CacheManager, KeyScope
from lragent.cache.layout import PageLayout
from lragent.engine import Engine, SamplingParams
from lragent.engine.cache_file import CacheFiles
from lragent.engine.errors import CacheFileError
from lragent.engine.kv_storage import KVStorage
from lragent.evaluation import run
from lragent.evaluation.config import EvalConfig
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.inputs import Inputs
from lragent.evaluation.journal import CaseResult, Journal
from lragent.evaluation.tasks import Agents, Question, Task, answers
from lragent.sharing import Binding, Policy, SharingGroup, alone
from lragent.sharing.bindings import Fill
from lragent.sharing.group import Group
from lragent.sharing.measured import MeasuredSharing, MeasuredSharingError, measured_policy
from lragent.sharing.slots import slot_key
from lragent.training.config import Mode, TrainConfig, TrainedFor
from lragent.training.errors import TrainingError
from lragent.training.record import open_record
from lragent.training.samples import DataFile, Sample

# ---- pages, by the fields of their keys

FIRST = {name: values[0] for name, values in SCOPE.items()}
PAGE = 4


def scope(values: Mapping[str, str]) -> KeyScope:
    return KeyScope(**{name.replace(" ", "_"): value for name, value in values.items()})


@dataclass(frozen=True)
class Weights:
    digest: str
    slot_digest: str | None = "A"
    is_alora: bool = False
    acting_tokens: tuple[int, ...] | None = None


@pytest.fixture(params=["in memory", "through a file"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where pages are saved in between; None when they stay in the cache."""
    return tmp_path / "pages" if request.param == "through a file" else None


def pages_hit(
    file: Path | None,
    wrote: Mapping[str, str],
    reads: Mapping[str, str],
    written: tuple[int, ...] = (1, 2, 3, 4),
    read: tuple[int, ...] = (1, 2, 3, 4),
    slots: tuple[int, int] = (0, 0),
) -> tuple[int, int]:
    """Tokens whose base part, and whose LR slot, a reader finds of what was written."""
    writer, reader = (
        CacheClient(scope(values), slot, (slot,), True)
        for values, slot in zip((wrote, reads), slots, strict=True)
    )
    cache = CacheManager(8, PAGE, 100, 10, slots=2)
    lease = cache.admit(writer, written)
    cache.extend(lease, len(written))
    cache.commit(lease, written, len(written))
    cache.release(lease)
    if file is not None:
        files(cache).save(file, written, lambda: (binding(writer), writer))
        cache = CacheManager(8, PAGE, 100, 10, slots=2)
        with suppress(CacheFileError):
            files(cache).load(file, lambda: (binding(reader), reader))
    found = cache.admit(reader, read)
    cache.check_integrity()
    return found.base_tokens, found.lr_tokens


def files(cache: CacheManager) -> CacheFiles:
    layout = PageLayout(PAGE, kv_heads=1, head_dim=2, slots=2, v_rank=1, k_rank=0, itemsize=4)
    storage = KVStorage(layout, 8, 1, torch.float32, torch.device("cpu"))
    views = storage.views[0]
    assert views.lr is not None
    for tensor in (views.k, views.v, views.lr):
        tensor.zero_()  # a file with the NaN of memory that nobody wrote would be refused
    return CacheFiles(cast(Any, SimpleNamespace(books=nullcontext)), cache, storage)


def binding(client: CacheClient) -> Binding[Any]:
    """With the A of its slot, which files know by content."""
    fills = tuple(Fill(slot, Weights("", f"A of slot {slot}")) for slot in client.fills)
    return Binding(None, None, Policy.BASE_LR, "", client.slot, fills)


@pytest.mark.parametrize("field", SCOPE)
def test_a_field_of_the_scope_keeps_pages_apart(field: str, file: Path | None):
    for wrote, reads in itertools.product(SCOPE[field], repeat=2):
        found = pages_hit(file, FIRST | {field: wrote}, FIRST | {field: reads})
        assert found == ((PAGE, PAGE) if wrote == reads else (0, 0)), (wrote, reads)


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(SCOPE, 2)])
def test_equal_strings_in_two_fields_keep_pages_apart(one: str, other: str, file: Path | None):
    """Nor do the fields run into each other."""
    for left, right, wrote, reads in (
        ("x", "", "", "x"), ("ab", "c", "a", "bc"), ("x", "y", "y", "x"), ("x\0", "y", "x", "\0y"),
        ("asb", "c", "a", "bsc"),
    ):  # fmt: skip
        first, second = FIRST | {one: left, other: right}, FIRST | {one: wrote, other: reads}
        assert pages_hit(file, first, second) == (0, 0)
        assert pages_hit(file, first, first) == pages_hit(file, second, second) == (PAGE, PAGE)


@pytest.mark.parametrize("field", TOKENS)
def test_tokens_keep_pages_apart(field: str, file: Path | None):
    for wrote, reads in itertools.product(TOKENS[field], repeat=2):
        if field == "parent":
            first, then = (*wrote, 8, 8, 8, 8), (*reads, 8, 8, 8, 8)
        else:
            first, then = (9, 9, 9, 9, *wrote), (9, 9, 9, 9, *reads)
        base, lr = pages_hit(file, FIRST, FIRST, first, then)
        assert base == lr
        common = 0 if field == "parent" else PAGE
        assert base == (len(first) if wrote == reads else common), (wrote, reads)


def test_a_slot_is_read_only_where_it_was_written(file: Path | None):
    for wrote, reads in itertools.product((0, 1), repeat=2):
        found = pages_hit(file, FIRST, FIRST, slots=(wrote, reads))
        assert found == (PAGE, PAGE if wrote == reads else 0)


@pytest.mark.parametrize("field", GROUP)
def test_a_field_of_a_group_keeps_pages_apart(field: str):
    def sharer(value: Any) -> str:
        policy, base, number, generation, part = (
            value if name == field else values[0] for name, values in GROUP.items()
        )
        group: Group[Weights] = Group(SharingGroup("g", ("m",), policy, base), number)
        for step in range(generation + 1):
            group.join({"m": Weights(part if step == generation else "before")}, 2, "")
        return group.sharer

    for wrote, reads in itertools.product(GROUP[field], repeat=2):
        assert (sharer(wrote) == sharer(reads)) is (wrote == reads), (wrote, reads)


# ---- whatever is found by an adapter's identity


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``plan``: two of three layers, its values the same in bfloat16; and ``act``."""
    root, model = tmp_path_factory.mktemp("adapters"), tiny_model()
    plan = make_adapter(root / "plan", model, rank=4, seed=1)
    edit_config(plan, target_modules=TARGETS)
    edit_tensors(
        plan, lambda t: {n: x.bfloat16().float() for n, x in t.items() if "layers.2" not in n}
    )
    make_adapter(root / "act", model, rank=4, seed=2, share_a_with=plan)
    return root


Reused = Callable[[Path, Path, Path], bool]
"""Whether what was made with the first folder is reused for the second; and a place to write."""


def pages_alone(wrote: Path, reads: Path, _: Path) -> bool:
    one, other = (alone(n, read_adapter(p)) for n, p in (("plan", wrote), ("else", reads)))
    return one.sharer == other.sharer


def pages_of_a_group(policy: str) -> Reused:
    def place(wrote: Path, reads: Path, _: Path) -> bool:
        sharers = []
        for path in (wrote, reads):
            group: Group[Any] = Group(SharingGroup("g", ("plan",), policy), 0)
            group.join({"plan": read_adapter(path)}, 2, "")
            sharers.append(group.sharer)
        return sharers[0] == sharers[1]

    return place


def slots_of_a_group(policy: Policy) -> Reused:
    def place(wrote: Path, reads: Path, _: Path) -> bool:
        one, other = (slot_key(policy, read_adapter(path)) for path in (wrote, reads))
        return one is not None and one == other

    return place


def weights_on_the_device(wrote: Path, reads: Path, _: Path) -> bool:
    with Engine((tiny_model(), None), {"one": wrote, "two": reads}, max_lora_rank=8) as engine:
        return len(engine._runner.bank) == 1


def pages_after_a_reload(wrote: Path, reads: Path, _: Path) -> bool:
    prompt, params = [*prompt_of(40), 5, 6, 5, 7], SamplingParams(max_tokens=1)
    with Engine((tiny_model(), None), {"one": wrote}, page_size=4, max_lora_rank=8) as engine:
        engine.generate(prompt, adapter="one", sampling_params=params)
        engine.reload_adapter("one", reads)
        return engine.generate(prompt, adapter="one", sampling_params=params).cached_tokens > 0


def pages_of_a_file(wrote: Path, reads: Path, work: Path) -> bool:
    adapters = {"one": wrote, "two": reads}
    with Engine((tiny_model(), None), adapters, page_size=4, max_lora_rank=8) as engine:
        engine.save_cache(work / "pages", [*prompt_of(40), 5, 6, 5, 7], adapter="one")
        try:
            return engine.load_cache(work / "pages", adapter="two") > 0
        except CacheFileError:
            return False


def measured(wrote: Path, reads: Path, work: Path) -> bool:
    act = shutil.copytree(wrote.parent / "act", work / "act")
    first, now = ({"plan": read_adapter(p), "act": read_adapter(act)} for p in (wrote, reads))
    members = sorted(adapter.digest for adapter in first.values())
    MeasuredSharing(
        policy=Policy.BASE_LR, members=members, base_model="m", nll_ratio=1.0, exact_points=0.0,
        lragent="1",
    ).save({"act": first["act"], "plan": now["plan"]})  # fmt: skip
    try:
        return measured_policy(now) is Policy.BASE_LR
    except MeasuredSharingError:
        return False


def identity(adapter: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "inputs": Inputs([], "text"), "environment": {"torch": "1"}, "weights": "w",
    }  # fmt: skip
    given |= {name: changes.pop(name) for name in given if name in changes}
    config = EvalConfig(**{"model": "m", "adapters": {"plan": adapter}, **changes})
    return run._identity(config, **given)


def journal(wrote: Path, reads: Path, work: Path) -> bool:
    return same_journal(identity(wrote), identity(reads), work / "j")


def answering(adapter: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "name": "t", "questions": (), "pages": (), "weights": "w",
        "model": "m", "adapters": {"plan": adapter}, "policy": Policy.ISOLATED, "engine": {},
    }  # fmt: skip
    given |= {name: changes.pop(name) for name in given if name in changes}
    task = Task(**{name: given.pop(name) for name in Task.model_fields})
    weights = given.pop("weights")
    return answers._identity(task, Agents(**given, options=WorkflowOptions(**changes)), weights)


def answers_of_a_task(wrote: Path, reads: Path, work: Path) -> bool:
    return same_journal(answering(wrote), answering(reads), work / "j")


def same_journal(wrote: Mapping[str, Any], reads: Mapping[str, Any], path: Path) -> bool:
    path.unlink(missing_ok=True)
    Journal(path, CaseResult, dict(wrote))
    try:
        Journal(path, CaseResult, dict(reads))
    except EvaluationError:
        return False
    return True


NEVER: set[str] = set()
BY_ADAPTER: dict[str, tuple[Place, Reused, set[str]]] = {
    "pages alone": (Place.PAGES, pages_alone, NEVER),
    "engine after a reload": (Place.PAGES, pages_after_a_reload, NEVER),
    "group base": (Place.PAGES, pages_of_a_group("base"), NEVER),
    "group base+lr": (Place.PAGES, pages_of_a_group("base+lr"), NEVER),
    "group full": (Place.PAGES, pages_of_a_group("full"), NEVER),
    "group neutral": (Place.PAGES, pages_of_a_group("neutral"), NOT_OF_THE_SLOT),
    "slot base": (Place.PAGES, slots_of_a_group(Policy.BASE), NEVER),
    "slot base+lr": (Place.PAGES, slots_of_a_group(Policy.BASE_LR), NOT_OF_THE_SLOT),
    "slot neutral": (Place.PAGES, slots_of_a_group(Policy.NEUTRAL), NOT_OF_THE_SLOT),
    "weights": (Place.WEIGHTS, weights_on_the_device, NEVER),
    "measured": (Place.MEASURED, measured, NEVER),
    "journal": (Place.JOURNAL, journal, NEVER),
    "cache file": (Place.CACHE_FILES, pages_of_a_file, NEVER),
    "answers": (Place.ANSWERS, answers_of_a_task, NEVER),
}
"""By name: the place of `MODULES`, the question, and the fields that it does not depend on."""


@pytest.mark.parametrize("place", BY_ADAPTER)
def test_adapters_are_told_apart(place: str, root: Path, tmp_path: Path):
    _, reused, free = BY_ADAPTER[place]
    shutil.copytree(root / "act", tmp_path / "act")

    def made(name: str, edit: Edit | None = None) -> Path:
        folder = shutil.copytree(root / "plan", tmp_path / name)
        if edit is not None:
            edit(folder)
        return folder

    def hits(wrote: Path, reads: Path) -> bool:
        work = tmp_path / f"{wrote.name}-{reads.name}"
        work.mkdir()
        try:
            return reused(wrote, reads, work)
        except AdapterError:
            return False  # it is not even served

    plan = made("plan")
    acting: list[Path] = []
    assert hits(plan, made("copy")), "no positive control"
    for field, edits in ADAPTER.items():
        for edit in edits:
            folder = made(f"{len(list(tmp_path.iterdir()))} {field[:20]}", edit)
            assert hits(plan, folder) is (field in free), field
            acting += [folder] * field.endswith("tokens")
    if not free:  # both set, and equal tokens in two fields
        for wrote, reads in itertools.combinations(acting, 2):
            assert not hits(wrote, reads), (wrote.name, reads.name)


def test_the_journal_tells_evaluations_apart(root: Path, tmp_path: Path):
    sample = Sample(role="plan", input="a", output="b")
    first = identity(root / "plan")
    changes: dict[str, Any] = {
        "model": {"model": "other"},
        "weights": {"weights": "of another model under the same name"},
        "adapters": {"adapters": {"act": root / "plan"}},
        "policies": {"policies": (Policy.NEUTRAL,)},
        "inputs": {"inputs": Inputs([sample], "text")},
        "readers": {"readers": 1},
        "hand_overs": {"hand_overs": (1,)},
        "turn": {"turn": 8},
        "seed": {"seed": 1},
        "environment": {"environment": {"torch": "2"}},
    }
    assert set(changes) == set(first), "a field without its row"
    assert same_journal(first, identity(root / "plan"), tmp_path / "j")
    for field, change in changes.items():
        assert not same_journal(first, identity(root / "plan", **change), tmp_path / "j"), field
    as_text = Inputs([], "text" + sample.model_dump_json())
    one, other = (identity(root / "plan", inputs=i) for i in (Inputs([sample], "text"), as_text))
    assert not same_journal(one, other, tmp_path / "j")


def test_the_journal_tells_who_answers_apart(root: Path, tmp_path: Path):
    of_task: dict[str, Any] = {"name": "other", "pages": (("Title", "Text"),)}
    of_agents: dict[str, Any] = {
        "model": "other", "adapters": {"act": root / "plan"}, "policy": Policy.NEUTRAL,
        "engine": {"include_base_model": True},
    }  # fmt: skip
    of_options: dict[str, Any] = {
        "max_steps": 1, "max_retries": 9, "max_malformed": 9, "max_repeats": 9,
        "max_context_tokens": 99, "max_tokens": {Turn.THOUGHT: 1}, "reflect": False,
        "system_prompt": "Act.",
    }  # fmt: skip
    told_by_answer, of_speed = {"questions"}, {"at_once"}
    greedy, of_roles = {"temperature", "top_p", "seed"}, {"adapters"}
    for changed, others, known in (
        (of_task, told_by_answer, set(Task.model_fields)),
        (of_agents, of_speed | {"options"}, {field.name for field in fields(Agents)}),
        (of_options, greedy | of_roles, {field.name for field in fields(WorkflowOptions)}),
    ):
        assert set(changed) | others == known, "a field without its row"
    changes = of_task | of_agents | of_options
    changes |= {"weights": "of another model under the same name"}
    first = answering(root / "plan")
    assert len(changes) == len(first), "a field without its row"
    assert same_journal(first, answering(root / "plan"), tmp_path / "j")
    for field, change in changes.items():
        other = answering(root / "plan", **{field: change})
        assert not same_journal(first, other, tmp_path / "j"), field


def test_an_answer_belongs_to_all_of_its_question():
    """As when a data set comes in another version, with the same ids."""
    first = Question(id="1", question="Where?", answers=("Oss",))
    changes: dict[str, Any] = {
        "id": "2", "question": "When?", "answers": ("Ulm",), "choices": ("Oss", "Ulm"),
        "pages": (("Title", "Text"),),
    }  # fmt: skip
    assert set(changes) == set(Question.model_fields), "a field without its row"
    assert first.key == first.model_copy().key
    for field, change in changes.items():
        assert first.model_copy(update={field: change}).key != first.key, field


def test_the_training_record_tells_runs_apart(tmp_path: Path):
    data = [DataFile("a", "1", 1)]
    given: dict[str, Any] = {"data": (tmp_path / "a",), "model": "m", "out": tmp_path / "out"}
    changes: dict[str, Any] = {
        "model": "other", "roles": ("act", "plan"), "trained_for": TrainedFor.BASE_LR,
        "readers": "random", "acting_text": "Now:", "mode": Mode.SEPARATE, "rank": 3, "alpha": 5,
        "dropout": 0.3,
        "targets": ("v_proj",), "epochs": 9, "max_steps": 7, "batch_size": 3, "accumulation": 3,
        "learning_rate": 0.5, "role_learning_rates": {"plan": 0.1}, "warmup": 0.2,
        "weight_decay": 0.1, "max_length": 99, "seed": 3, "save_dtype": "float16",
    }  # fmt: skip
    needs = {"readers": {"trained_for": TrainedFor.BASE_LR, "mode": Mode.JOINT}}

    def goes_on(first: TrainConfig, then: TrainConfig, sums: list[DataFile]) -> bool:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        open_record(first, data)
        try:
            open_record(then, sums)
        except TrainingError:
            return False
        return True

    assert set(changes) == set(TrainConfig(**given).deciding()), "a field without its row"
    for field, value in changes.items():
        first = TrainConfig(**given, **needs.get(field, {}))
        then = TrainConfig(**(given | needs.get(field, {}) | {field: value}))
        assert goes_on(first, first, data)
        assert not goes_on(first, then, data), field
    first = TrainConfig(**given)
    assert not goes_on(first, first, [DataFile("a", "2", 1)])


# ---- the whole engine


@pytest.mark.parametrize("policy", ["isolated", "neutral"])
def test_tenants_and_adapters_of_an_engine(policy: str, root: Path, tmp_path: Path):
    """Every pair of a tenant and an adapter, one after the other on a prompt of their own."""
    copy = shutil.copytree(root / "plan", tmp_path / "copy")
    adapters = {"plan": root / "plan", "copy": copy, "act": root / "act"}
    members = {"plan": "group", "copy": "group", "act": "group", None: "group"}
    contents = {"plan": "plan", "copy": "plan", "act": "act", None: None}
    same = contents if policy == "isolated" else members
    params = SamplingParams(max_tokens=1)
    with Engine((tiny_model(), None), adapters, policy, page_size=4) as engine:
        shared = engine._registry.binding("plan").sharer
        tenants = ("", "plan", shared)
        who = list(itertools.product(tenants, contents))
        for number, (wrote, reads) in enumerate(itertools.product(who, repeat=2)):
            prompt = [*prompt_of(9, seed=number), 3]
            hit = []
            for tenant, name in (wrote, reads):
                done = engine.generate(
                    prompt, adapter=name, cache_salt=tenant, sampling_params=params
                )
                hit.append(done.cached_tokens > 0)
            equal = wrote[0] == reads[0] and same[wrote[1]] == same[reads[1]]
            assert hit == [False, equal], (wrote, reads)


# ---- the gates


def test_every_field_has_its_row():
    assert names("page-root") == set(SCOPE)
    assert names("page") == set(TOKENS)
    assert names("sharing-group") == set(GROUP)
    assert names("adapter") == set(ADAPTER)
    assert names("down-projection") <= {*ADAPTER, "number of cached modules"}


def test_every_module_that_looks_at_identities_has_its_place():
    identity = re.compile(
        r"\.(digests?|slot_digest|a_digests|sharer|sha256|root)\b|ContentHash\(|hashlib"
    )
    package = ROOT / "src" / "lragent"
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if identity.search(path.read_text())
    }
    assert found == set(MODULES), "say in key_rows.MODULES what such a module finds by identities"


def test_every_place_has_its_row():
    here = {place for place, *_ in BY_ADAPTER.values()} | {Place.RECORD}
    plugin = (ROOT / "tests" / "vllm" / "core" / "test_key_conformance.py").read_text()
    there = {place for place in Place if f"Place.{place.name}" in plugin}
    assert set(Place) == here | there
    assert {place for place in MODULES.values() if isinstance(place, Place)} == set(Place)

"""Key conformance of the plugin: the rows of tests/proof/key_rows.py at its own places."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.factory import edit_config, edit_tensors, make_adapter
from tests.engine.models import prompt_of, tiny_model
from tests.proof.key_rows import ADAPTER, NOT_OF_THE_SLOT, SCOPE, TARGETS, Edit, Place
from tests.proof.test_key_format import Folder, group_sharer, key_of
from tests.vllm.core.world import PAGE, World
from tests.vllm.serving import folders

from lragent.adapters import AdapterError
from lragent.cache.keys import KeyScope
from lragent.sharing.bindings import BASE_MODEL, alone
from lragent.vllm.core.adapters import AdapterStore
from lragent.vllm.core.bindings import serve
from lragent.vllm.core.registry import AdapterRegistry
from lragent.vllm.core.rows import RowTable
from lragent.vllm.options import parse_options

pytestmark = pytest.mark.every_version

PLACES = {Place.BLOCKS, Place.FOLDERS, Place.ROWS}
FIRST = {name.replace(" ", "_"): values[0] for name, values in SCOPE.items()}


@pytest.fixture
def store() -> Iterator[AdapterStore]:
    made = AdapterStore(8, lambda adapter: None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As in tests/proof/test_key_conformance.py."""
    folder = make_adapter(tmp_path_factory.mktemp("rows") / "plan", tiny_model(), rank=4)
    edit_config(folder, target_modules=TARGETS)
    edit_tensors(
        folder, lambda t: {n: x.bfloat16().float() for n, x in t.items() if "layers.2" not in n}
    )
    return folder


Question = Callable[[AdapterStore, Path, Path], bool]


def folders_by_content(store: AdapterStore, wrote: Path, reads: Path) -> bool:
    return store.read(str(wrote)) is store.read(str(reads))


def folders_replaced(store: AdapterStore, wrote: Path, reads: Path) -> bool:
    """Other files in the folder that was read before."""
    folder = shutil.copytree(wrote, wrote.parent / f"{reads.name} replaced")
    before = store.read(str(folder))
    shutil.rmtree(folder)
    shutil.copytree(reads, folder)
    return store.read(str(folder)) is before


def rows_of_workers(store: AdapterStore, wrote: Path, reads: Path) -> bool:
    table = RowTable(4, lambda: ())
    one, other = (store.read(str(path)) for path in (wrote, reads))
    return table.row(one) == table.row(other) and len(table.take_loads()) == 1


def blocks(policy: str) -> Question:
    def question(store: AdapterStore, wrote: Path, reads: Path) -> bool:
        """Whether the block hashes of one member and of its replacement have one extra key."""
        option: dict[str, Any] = {"slots": 2}
        if policy != "isolated":
            option |= {"policy": policy, "groups": [["plan"]]}
        registry = AdapterRegistry(parse_options(option), store, KeyScope(**FIRST))
        keys = [registry.bind("plan", i, str(p)).keys for i, p in enumerate((wrote, reads))]
        return keys[0] == keys[1]

    return question


NEVER: set[str] = set()
BY_ADAPTER: dict[str, tuple[Place, Question, set[str]]] = {
    "content": (Place.FOLDERS, folders_by_content, NEVER),
    "replaced": (Place.FOLDERS, folders_replaced, NEVER),
    "rows": (Place.ROWS, rows_of_workers, NOT_OF_THE_SLOT),
    "blocks alone": (Place.BLOCKS, blocks("isolated"), NEVER),
    "blocks base": (Place.BLOCKS, blocks("base"), NEVER),
    "blocks base+lr": (Place.BLOCKS, blocks("base+lr"), NEVER),
    "blocks full": (Place.BLOCKS, blocks("full"), NEVER),
}


@pytest.mark.parametrize("place", BY_ADAPTER)
def test_adapters_are_told_apart(place: str, plan: Path, tmp_path: Path, store: AdapterStore):
    _, reused, free = BY_ADAPTER[place]

    def made(name: str, edit: Edit | None = None) -> Path:
        folder = shutil.copytree(plan, tmp_path / name)
        if edit is not None:
            edit(folder)
        return folder

    def hits(wrote: Path, reads: Path) -> bool:
        try:
            return reused(store, wrote, reads)
        except AdapterError:
            return False  # it is not even served

    first = made("plan")
    assert hits(first, made("copy")), "no positive control"
    for field, edits in ADAPTER.items():
        for number, edit in enumerate(edits):
            folder = made(f"{number} {field}", edit)
            assert hits(first, folder) is (field in free), field


def test_every_place_is_here():
    assert {place for place, *_ in BY_ADAPTER.values()} == PLACES


@pytest.mark.parametrize("field", sorted({*SCOPE} - {"sharer", "policy", "tenant"}))
def test_a_field_of_the_scope_keeps_blocks_apart(
    field: str, plan: Path, tmp_path: Path, store: AdapterStore
):
    """Sharer and policy are the binding's own; the tenant is vLLM's, see below."""
    name = field.replace(" ", "_")
    binding = alone("plan", store.read(str(plan)))
    keys = []
    for value in SCOPE[field]:
        scope = KeyScope(**(FIRST | {name: value}))
        keys.append(serve(binding, scope, RowTable(1, lambda: ()), None).keys[0])
    assert len(set(keys)) == len(keys)


@pytest.fixture(scope="module")
def apart(root: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    adapters = folders(root, "own")
    copy = shutil.copytree(adapters["plan"], tmp_path_factory.mktemp("copies") / "copy")
    return World(
        root / "llama", {**adapters, "copy": copy}, {"slots": 1, "allow_other_base": True}, 200
    )


def cached(world: World, name: str | None, tokens: list[int], salt: str | None) -> int:
    before = world.hit
    world.submit(name, tokens, salt=salt)
    world.finish()
    return world.hit - before


def test_tenants_and_adapters(apart: World):
    """Every pair of a tenant and an adapter; a salt may be any other's extra key."""
    contents = {"plan": "plan", "copy": "plan", "act": "act", None: None}
    first = apart.submit("plan", prompt_of(3))
    apart.finish()
    [key] = apart.bindings[first].keys
    who = list(itertools.product((None, "plan", key, "bob"), contents))
    for number, (wrote, reads) in enumerate(itertools.product(who, repeat=2)):
        tokens = prompt_of(PAGE + 1, seed=number)
        hit = [cached(apart, name, tokens, salt) > 0 for salt, name in (wrote, reads)]
        equal = wrote[0] == reads[0] and contents[wrote[1]] == contents[reads[1]]
        assert hit == [False, equal], (wrote, reads)


def test_extra_keys_are_as_described(apart: World, root: Path):
    """From docs/internals/keys.md alone."""
    names = folders(root, "own")

    def key(sharer: str, policy: str, layout: str, world: World) -> list[str]:
        values = {
            "base model": f"{root / 'llama'}@None", "dtype": "float32", "layout": layout,
            "tenant": "", "sharer": sharer, "policy": policy,
        }  # fmt: skip
        return [f"lragent:{key_of('page-root', lambda name, _: values[name]).hex()}"]

    layout = f"vllm/1 slots=1 width=8 page={PAGE * 4 * (32 + 8)}"
    plan = apart.submit("plan", prompt_of(3))
    bare = apart.submit(None, prompt_of(3))
    apart.finish()
    digest = Folder(names["plan"]).digest
    assert apart.bindings[plan].keys == key(f"adapter:{digest}", "isolated", layout, apart)
    assert (apart.bindings[bare].sharer, apart.bindings[bare].keys) == (BASE_MODEL, [])
    option = {
        "policy": "base+lr", "groups": [["plan", "act"]], "slots": 2, "allow_other_base": True,
        "adapters": {name: str(names[name]) for name in ("plan", "act")},
    }  # fmt: skip
    group = World(root / "llama", names, option, 20)
    asked = group.submit("act", prompt_of(3))
    group.finish()
    sharer = group_sharer(
        "base+lr", False, 0, 0, {Folder(names[n]).digest for n in ("plan", "act")}
    )
    layout = f"vllm/1 slots=2 width=8 page={PAGE * 4 * (32 + 16)}"
    assert group.bindings[asked].keys == key(sharer, "base+lr", layout, group)

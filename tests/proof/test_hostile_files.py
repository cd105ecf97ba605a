"""Files made to harm: a typed error or success, in bounded time, and nobody else notices."""

from __future__ import annotations

import gzip
import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.adapters.factory import CONFIG, WEIGHTS
from tests.proof.conftest import PARAMS, PROMPT, Beside

from lragent.adapters import AdapterError, read_adapter
from lragent.agents import DocumentStore
from lragent.agents.tools.documents import DocumentError
from lragent.agents.trace import RunTrace, TraceReadError
from lragent.engine import Engine
from lragent.training.errors import TrainingError
from lragent.training.samples import read_samples

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
NESTED = "[" * 100_000


@pytest.fixture
def folder(plan: Path, tmp_path: Path) -> Path:
    """A copy of the adapter, to be spoilt."""
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((plan / name).read_bytes())
    return tmp_path


# ---- safetensors


def safetensors(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


V = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        safetensors(b""),
        safetensors({}, size=2**63),
        safetensors({}, size=2**40),
        safetensors(b"\xff\xfe"),
        safetensors(NESTED.encode()),
        safetensors({V: {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}}),
        safetensors({V: {"dtype": "F32", "shape": [4, 48], "data_offsets": [0, 2**63]}}),
        safetensors({V: {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"\0" * 4),
        safetensors({V: {"dtype": "F32", "shape": [-1, 48], "data_offsets": [0, 4]}}, b"\0" * 4),
        safetensors({V: {"dtype": "F4", "shape": [2, 1], "data_offsets": [0, 1]}}, b"\0"),
        safetensors({V: {"dtype": "F8_E4M3", "shape": [2, 1], "data_offsets": [0, 2]}}, b"\0" * 2),
        safetensors({V: {"dtype": "C64", "shape": [1, 1], "data_offsets": [0, 8]}}, b"\0" * 8),
        safetensors({V: {"dtype": "F32", "shape": [0, 48], "data_offsets": [0, 0]}}),
        safetensors({"x" * 5_000_000: {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}},
                    b"\0" * 4),
        safetensors({f"{V}{i}": {"dtype": "F32", "shape": [], "data_offsets": [4 * i, 4 * i + 4]}
                     for i in range(20_000)}, b"\0" * 80_000),
        safetensors({"__metadata__": {"a": NESTED}}),
        safetensors({"__metadata__": 5}),
    ],
    ids=range(19),
)  # fmt: skip
def test_tensors(folder: Path, engine: Engine, beside: Beside, content: bytes):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(AdapterError) as caught:
        beside(lambda: engine.load_adapter("guest", folder))
    assert len(str(caught.value)) < 3000
    assert engine.adapters == ("plan",)


@settings(max_examples=30)
@given(
    cut=st.integers(0, 3000) | st.none(),
    changes=st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), max_size=6),
)
def test_damaged_tensors(
    plan: Path, tmp_path_factory: pytest.TempPathFactory, engine: Engine, beside: Beside,
    cut: int | None, changes: list[tuple[int, int]],
):  # fmt: skip
    folder = tmp_path_factory.mktemp("damaged")
    (folder / CONFIG).write_bytes((plan / CONFIG).read_bytes())
    content = bytearray((plan / WEIGHTS).read_bytes())
    for place, value in changes:
        content[place] = value
    (folder / WEIGHTS).write_bytes(content[:cut])

    def load() -> None:
        engine.load_adapter("guest", folder, share=False)
        answer = engine.generate(PROMPT, adapter="guest", sampling_params=PARAMS)
        assert len(answer.token_ids) == PARAMS.max_tokens
        engine.unload_adapter("guest")

    with suppress(AdapterError):
        beside(load)


def test_an_unknown_users_home(engine: Engine, beside: Beside):
    with pytest.raises(AdapterError, match="no adapter folder"):
        beside(lambda: engine.load_adapter("guest", "~nobody-of-this-name/adapter"))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "lragent.json"])
def test_no_ordinary_file(folder: Path, name: str, engine: Engine, beside: Beside):
    """A pipe would be read for ever, and a folder not at all."""
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with suppress(AdapterError):
        beside(lambda: read_adapter(folder))
    (folder / name).unlink()
    (folder / name).mkdir()
    with suppress(AdapterError):
        beside(lambda: read_adapter(folder))


# ---- traces


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", NESTED.encode(), b"{" * 100_000, b'{"steps": ' + b"9" * 5000 + b"}", b"null",
     b'{"calls": [' + b'{"step": 1},' * 10_000 + b"{}]}"],
    ids=range(7),
)  # fmt: skip
def test_traces(tmp_path: Path, beside: Beside, content: bytes):
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(TraceReadError) as caught:
        beside(lambda: RunTrace.load(tmp_path / "t.json"))
    assert len(str(caught.value)) < 3000


@settings(max_examples=30)
@given(value=JSON, field=st.sampled_from([*RunTrace.model_fields, "unknown"]))
def test_any_trace(
    tmp_path_factory: pytest.TempPathFactory, beside: Beside, value: Any, field: str
):
    file = tmp_path_factory.mktemp("trace") / "t.json"
    file.write_text(json.dumps({"schema_version": 1, field: value}))
    with pytest.raises(TraceReadError):
        beside(lambda: RunTrace.load(file))


# ---- samples


ROLES = ("plan", "act")
GOOD = json.dumps({"role": "plan", "input": "a", "output": "b"}).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"\xff\n"),
        ("a.jsonl", NESTED.encode()),
        ("a.jsonl", b"{}\n"),
        ("a.jsonl", json.dumps({"role": "x" * 3_000_000, "input": "a", "output": "b"}).encode()),
        ("a.jsonl", json.dumps({"role": "plan", "input": [{}] * 99_999, "output": "b"}).encode()),
        ("a.jsonl", json.dumps({"role": "plan", "input": "", "output": "b"}).encode()),
        ("a.jsonl.gz", b"no gzip"),
        ("a.jsonl.gz", gzip.compress(GOOD)[:-9]),
        (
            "a.jsonl.gz",
            gzip.compress(b"x" * (100 << 20), 1),
        ),  # one line that inflates a hundredfold
    ],
    ids=range(9),
)
def test_samples(tmp_path: Path, beside: Beside, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match=name) as caught:
        beside(lambda: read_samples([tmp_path / name], ROLES))
    assert len(str(caught.value)) < 3000


@settings(max_examples=30)
@given(value=JSON, field=st.sampled_from(["role", "input", "output", "unknown"]))
def test_any_sample(
    tmp_path_factory: pytest.TempPathFactory, beside: Beside, value: Any, field: str
):
    file = tmp_path_factory.mktemp("samples") / "s.jsonl"
    line = {"role": "plan", "input": "a", "output": "b"} | {field: value}
    file.write_bytes(GOOD + json.dumps(line).encode() + b"\n")
    with suppress(TrainingError):
        samples, _ = beside(lambda: read_samples([file], ROLES))
        assert len(samples["plan"]) >= 1


# ---- documents


def store_of(folder: Path) -> DocumentStore:
    """Everything that a run does with its documents."""
    store = DocumentStore.from_folder(folder)
    for document in store.documents:
        assert document.passages or not document.text
        assert document.sentences or not document.text
        store.find(document.title)
        document.title.encode()
    store.search("bridge of words", 3)
    store.similar_titles("a title")
    return store


@pytest.mark.parametrize(
    "text",
    [
        "# a" + " " * 100_000 + "b\n",
        "# " + "#" * 100_000 + "b\n",
        "# a" + " (" * 50_000 + "\n",
        "a." * 100_000,
        "A. " * 50_000,
        "Dr. " * 50_000 + "X",
        "a\n" + " " * 100_000 + "\n" + "\t" * 100_000,
        "\n" * 200_000 + "x",
        "x" * 1_000_000,
        "\u0301" * 100_000 + "x",
        "\ufdfa" * 100_000,
        ". \"'(" * 50_000,
        "\0\0\0 text",
    ],
    ids=range(13),
)
def test_documents(tmp_path: Path, beside: Beside, text: str):
    (tmp_path / "d.md").write_text(text)
    (tmp_path / "e.txt").write_text("Oland Bridge was opened in 1873.")
    store = beside(lambda: store_of(tmp_path))
    assert any("Oland" in document.text for document in store.documents)


@settings(max_examples=30)
@given(text=st.text(st.characters(codec="utf-8")), name=st.sampled_from(["a.md", "a.txt"]))
def test_any_document(
    tmp_path_factory: pytest.TempPathFactory, beside: Beside, text: str, name: str
):
    folder = tmp_path_factory.mktemp("documents")
    (folder / name).write_text(text)
    with suppress(DocumentError):
        beside(lambda: store_of(folder))


def test_documents_stay_inside_their_folder(tmp_path: Path, beside: Beside):
    """Neither a link to a file elsewhere nor one to a folder leads out."""
    outside, docs = tmp_path / "outside", tmp_path / "docs"
    outside.mkdir()
    docs.mkdir()
    (outside / "secret.md").write_text("The secret.")
    (docs / "mine.md").write_text("Mine.")
    (docs / "link.md").symlink_to(outside / "secret.md")
    (docs / "folder").symlink_to(outside)
    (docs / "within.md").symlink_to(docs / "mine.md")
    (docs / "itself").symlink_to(docs)
    (docs / "dangling.md").symlink_to(docs / "nothing")
    os.mkfifo(docs / "pipe.md")
    store = beside(lambda: store_of(docs))
    assert {document.text for document in store.documents} == {"Mine."}


def test_a_name_that_is_no_text(tmp_path: Path, beside: Beside):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("Text.")
    assert beside(lambda: store_of(tmp_path)).documents


def test_more_text_than_a_search_can_hold(tmp_path: Path, beside: Beside):
    """The file has holes, so it takes no room here."""
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DocumentError, match=r"big\.txt"):
        beside(lambda: store_of(tmp_path))

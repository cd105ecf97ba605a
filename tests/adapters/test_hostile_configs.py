"""Configs and sidecars made to harm: refused in bounded time; harmless ones as PEFT reads them."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from tests.adapters.factory import CONFIG, edit_config

from lragent.adapters import AdapterError, read_adapter
from lragent.adapters.module_rules import LayerRule, NameRule, PatternTable

SLOW = "(.*)*" * 12 + "!"
MANY = [f"layers.{i}.self_attn.v_proj" for i in range(200_000)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": SLOW}, "outside target_modules"),
        ({"target_modules": r"(?=.*q_proj).*"}, "look-around"),
        ({"target_modules": r"(.)\1"}, "back-references"),
        ({"target_modules": "((((a{1,200}){1,200}){1,200}){1,200})"}, "regular expression"),
        ({"target_modules": "a" * 30_000}, "more than 20,000 characters"),
        ({"target_modules": MANY}, "bytes"),
        ({"rank_pattern": {"a)(b": 4}}, "no valid regular expression"),
        ({"rank_pattern": {f"l{i}": 4 for i in range(3000)}}, "2,048 at most"),
        ({"alpha_pattern": {f"{name}.*": 4 for name in MANY}}, "bytes"),
        ({"layers_to_transform": [0], "layers_pattern": "(?!x)"}, "regular expression"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_patterns(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit_config(folder, **fields)
    started = time.process_time()
    with pytest.raises(AdapterError, match=message):
        read_adapter(folder)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("field", ["exclude_modules", "rank_pattern", "alpha_pattern"])
def test_exponential_patterns_take_no_time(folder: Path, field: str) -> None:
    edit_config(folder, **{field: SLOW if field == "exclude_modules" else {SLOW: 4}})
    started = time.process_time()
    assert read_adapter(folder).rank == 4
    assert time.process_time() - started < 2


@pytest.mark.parametrize("file", [CONFIG, "lragent.json"])
@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "[" * 200_000,
        '{"r": ' + "9" * 5000 + "}",
        '{"r": 1}' + " " * 2_000_000,
        '{"schema": NaN}',
        "\x00",
        "",
    ],
    ids=["nested", "open", "digits", "long", "nan", "zero", "empty"],
)
def test_hostile_json(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(AdapterError) as caught:
        read_adapter(folder)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("value", [10**4000, -1, 1e308, "x" * 100_000, [[[[[]]]]], {"a": {}}])
@pytest.mark.parametrize("field", ["r", "lora_alpha", "bias", "target_modules", "use_dora", "new"])
def test_values_of_any_kind(folder: Path, field: str, value: Any) -> None:
    edit_config(folder, **{field: value})
    message = ""
    try:
        assert read_adapter(folder).rank == 4
    except AdapterError as error:
        message = str(error)
    assert len(message) < 6000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from([*LoraConfig.__dataclass_fields__, "bias", "schema", "group", "unknown"])


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.adapters.factory import make_adapter, tiny_llama

    return make_adapter(tmp_path_factory.mktemp("pristine") / "plan", tiny_llama())


@settings(max_examples=200)
@given(fields=st.dictionaries(FIELDS, JSON, max_size=3), sidecar=st.none() | JSON)
def test_any_json(pristine: Path, fields: dict[str, Any], sidecar: Any) -> None:
    original = (pristine / CONFIG).read_text()
    beside = pristine / "lragent.json"
    try:
        edit_config(pristine, **fields)
        if sidecar is not None:
            beside.write_text(json.dumps(sidecar))
        with suppress(AdapterError):
            read_adapter(pristine)
    finally:
        (pristine / CONFIG).write_text(original)
        beside.unlink(missing_ok=True)
    assert read_adapter(pristine).rank == 4


PIECES = [
    "model", "layers", "0", "1", "12", "self_attn", "mlp", "q_proj", "v_proj", ".", r"\.", ".*",
    r"\d+", "(q|v)_proj", "[01]", "^", "$", ".*?", "(?:model)?", r"\b", "_proj",
]  # fmt: skip
NAMES = [
    f"{prefix}layers.{layer}.{part}"
    for prefix in ("", "model.", "base.model.")
    for layer in (0, 1, 12)
    for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "v_proj")
]
PATTERN = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
RULE = st.one_of(PATTERN, st.lists(st.one_of(PATTERN, st.sampled_from(NAMES)), max_size=3))


@settings(max_examples=400)
@given(
    targets=RULE,
    excluded=st.none() | RULE,
    layers=st.none() | st.integers(0, 2) | st.lists(st.integers(0, 13), max_size=2),
    patterns=st.none() | st.sampled_from(["layers", "h", ["h", "layers"], []]),
    table=st.dictionaries(PATTERN, st.integers(1, 9), max_size=3),
)
def test_pefts_own_answers(
    targets: Any, excluded: Any, layers: Any, patterns: Any, table: dict[str, int]
) -> None:
    if isinstance(targets, str):
        layers = patterns = None  # PEFT allows these with lists only
    config = LoraConfig(
        target_modules=targets,
        exclude_modules=excluded,
        layers_to_transform=layers,
        layers_pattern=patterns if layers is not None else None,
    )
    include, exclude = NameRule(targets), NameRule(excluded)
    where, values = LayerRule(layers, patterns if layers is not None else None), PatternTable(table)
    for name in NAMES:
        ours = not (exclude.exact(name) or exclude.suffix(name)) and (
            include.exact(name) or (include.suffix(name) and where.holds(name))
        )
        assert ours == bool(check_target_module_exists(config, name)), name
        assert values.get(name, 0) == table.get(get_pattern_key(list(table), name), 0), name

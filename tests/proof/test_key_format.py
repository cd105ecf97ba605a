"""Keys and digests, computed from the tables of docs/internals/keys.md and from nothing else."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.adapters.factory import CONFIG, WEIGHTS, edit_config, make_adapter
from tests.engine.models import prompt_of, tiny_model
from tests.proof.description import ROOT, described
from transformers import PreTrainedModel

from lragent.adapters import read_adapter
from lragent.engine import Engine, SamplingParams

PAGE = 16
INVOCATION = [7, 8]


Values = Callable[[str, Any], Any]


def key_of(purpose: str, value: Values, **items: list[Any]) -> bytes:
    """The digest of a list of fields.

    Args:
        purpose: heading of its table.
        value: a field's value by its name, and by the item it stands for; a list stands for as
            many fields.
        items: what the rows of a last column stand once for each of.
    """
    schema, rows = described()[purpose]
    data = b"".join(map(field, "ssi", ("lragent", purpose, schema)))
    for each, group in groupby(rows, key=lambda row: row.each):
        block = list(group)
        for item in items[each.replace(" ", "_")] if each else [None]:
            for row in block:
                constant = row.name.startswith("`")
                found = row.name.strip("`") if constant else value(row.name, item)
                for one in found if isinstance(found, list) else [found]:
                    data += field(row.type, one)
    return hashlib.sha256(data).digest()


def field(kind: str, value: Any) -> bytes:
    data = {
        "s": lambda: value.encode("utf-8", "surrogatepass"),
        "i": lambda: struct.pack("<q", value),
        "f": lambda: struct.pack("<d", value),
        "b": lambda: value,
        "t": lambda: value,
    }[kind]()
    return kind.encode() + struct.pack("<Q", len(data)) + data


class Folder:
    """An adapter as its files have it: config, tensors and the tokens from which it acts."""

    def __init__(self, path: Path):
        self.config = json.loads((path / CONFIG).read_text())
        tensors = load_file(path / WEIGHTS)
        names = {name.split(".lora_")[0] for name in tensors}
        self.pairs = {
            name.removeprefix("base_model.model."): [
                tensors[f"{name}.lora_{side}.weight"] for side in "AB"
            ]
            for name in names
        }
        sidecar = path / "lragent.json"
        stated = json.loads(sidecar.read_text()) if sidecar.exists() else {}
        self.acting = stated.get("acting_tokens")
        self.invocation = self.config.get("alora_invocation_tokens")

    def ordered(self, *projections: str) -> list[str]:
        found = [n for n in self.pairs if not projections or n.endswith(projections)]
        return sorted(found, key=lambda name: (int(name.split(".")[2]), name))

    @property
    def digest(self) -> str:
        return key_of(
            "adapter",
            self.value,
            module=self.ordered(),
            aLoRA_adapter=[self] if self.invocation else [],
            acting_adapter=[self] if self.acting and not self.invocation else [],
        ).hex()

    @property
    def slot_digest(self) -> str:
        cached = self.ordered("k_proj", "v_proj")
        return key_of("down-projection", self.value, cached_module=cached).hex()

    def value(self, name: str, module: Any) -> Any:
        r, alpha = self.config["r"], self.config["lora_alpha"]
        plain = {
            "number of modules": len(self.pairs),
            "number of cached modules": len(self.ordered("k_proj", "v_proj")),
            "name of the linear layer": module,
            "rank": r,
            "scaling": alpha / (math.sqrt(r) if self.config["use_rslora"] else r),
            "acting tokens": self.acting,
            "invocation tokens": self.invocation,
        }
        if name in plain:
            return plain[name]
        what, side = name.split(",")[0].rsplit(" of ", 1)
        tensor = self.pairs[module][side == "B"]
        return {
            "dtype": lambda: str(tensor.dtype),
            "number of dimensions": tensor.dim,
            "sizes": lambda: list(tensor.shape),
            "elements": lambda: tensor.reshape(-1).view(torch.uint8).numpy().tobytes(),
        }[what]()


def group_sharer(policy: str, base: bool, number: int, generation: int, parts: set[str]) -> str:
    values = {
        "policy of the group": policy,
        "whether the base model is in it, 1 or 0": int(base),
        "number of the group among the engine's, from 0": number,
        "generation, from 0": generation,
    }
    digest = key_of("sharing-group", lambda n, i: values.get(n, i), part=sorted(parts))
    return f"group:{digest.hex()}"


def page_keys(root: bytes, tokens: list[int]) -> Iterator[bytes]:
    """The keys of a prompt's full pages."""
    parent = root
    for start in range(0, len(tokens) - PAGE + 1, PAGE):
        packed = struct.pack(f"<{PAGE}q", *tokens[start : start + PAGE])
        values = {"parent": parent, "tokens": packed}
        parent = key_of("page", lambda name, _, values=values: values[name])
        yield parent


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, model = tmp_path_factory.mktemp("formats"), tiny_model()
    plan = make_adapter(root / "plan", model, rank=4, seed=1)
    targets = ("k_proj", "v_proj", "o_proj")
    found = {
        "plan": plan,
        "act": make_adapter(root / "act", model, rank=4, seed=2, share_a_with=plan),
        "keys": make_adapter(root / "keys", model, rank=3, seed=3, targets=targets),
        "scaled": make_adapter(root / "scaled", model, rank=6, seed=4, use_rslora=True),
        "half": make_adapter(root / "half", model, seed=5, dtype=torch.bfloat16),
        "acting": make_adapter(root / "acting", model, seed=6),
        "alora": make_adapter(root / "alora", model, seed=7),
    }
    sidecar = {"schema": 1, "group": "g", "role": "r", "a_digest": {}, "acting_tokens": [5, 6]}
    (found["acting"] / "lragent.json").write_text(json.dumps(sidecar))
    edit_config(found["alora"], alora_invocation_tokens=INVOCATION)
    return found


def test_adapters(folders: dict[str, Path]):
    for name, path in folders.items():
        adapter, folder = read_adapter(path), Folder(path)
        assert adapter.digest == folder.digest, name
        if name != "alora":
            assert adapter.slot_digest == folder.slot_digest, name


def scope_root(
    engine: Engine, model: PreTrainedModel, tenant: str, sharer: str, policy: str
) -> bytes:
    config = model.config.to_dict()
    del config["_name_or_path"]
    weights = [
        [name, list(t.shape), str(t.dtype), t.flatten()[:64].tolist()]
        for name, t in sorted(model.state_dict().items())
    ]
    text = json.dumps([config, weights], sort_keys=True, default=str)
    values = {
        "base model": hashlib.sha256(text.encode()).hexdigest(),
        "dtype": "float32",
        "layout": engine.layout.describe(),
        "tenant": tenant,
        "sharer": sharer,
        "policy": policy,
    }
    return key_of("page-root", lambda name, _: values[name])


@pytest.mark.parametrize(
    ("name", "policy", "base"),
    [
        (None, "isolated", False),
        ("plan", "isolated", False),
        ("plan", "base+lr", False),
        ("act", "base", True),
        ("act", "full", False),
        ("plan", "neutral", True),
    ],
)
@pytest.mark.parametrize("tenant", ["", "a tenant"])
def test_the_engines_pages(
    folders: dict[str, Path], name: str | None, policy: str, base: bool, tenant: str
):
    members = {n: folders[n] for n in ("plan", "act")}
    prompt, model = prompt_of(3 * PAGE + 1), tiny_model()
    with Engine((tiny_model(), None), members, policy, include_base_model=base) as engine:
        params = SamplingParams(max_tokens=1)
        engine.generate(prompt, adapter=name, cache_salt=tenant, sampling_params=params)
        indexed = {key for key, _ in engine._cache._index.items()}
        read = {n: Folder(path) for n, path in members.items()}
        sharer = "base-model" if name is None else f"adapter:{read[name].digest}"
        if policy != "isolated":
            in_slots = policy == "neutral"
            parts = {f.slot_digest if in_slots else f.digest for f in read.values()}
            sharer = group_sharer(policy, base, 0, 0, parts)
        root = scope_root(engine, model, tenant, sharer, policy)
    assert indexed == set(page_keys(root, prompt))


def test_a_replaced_member_begins_the_next_generation(folders: dict[str, Path]):
    members = {n: folders[n] for n in ("plan", "act")}
    with Engine((tiny_model(), None), members, "base+lr", lr_slots=2) as engine:
        engine.reload_adapter("plan", folders["half"])
        parts = {Folder(folders[n]).digest for n in ("half", "act")}
        assert engine._registry.binding("act").sharer == group_sharer("base+lr", False, 0, 1, parts)


def test_every_purpose_has_its_table():
    """A hash that is made anywhere in the package is described, or finds no page but an entry of
    an evaluation's journal."""
    made = {
        purpose
        for path in (ROOT / "src" / "lragent").rglob("*.py")
        for purpose in re.findall(r'ContentHash\("(.+?)"', path.read_text())
    }
    assert made == {*described(), "evaluation-inputs", "question"}

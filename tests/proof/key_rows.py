"""Every field of a key with values to tell apart, and every place at which something can hit.

A field that is added to a hash needs a row in docs/internals/keys.md, else the digests computed
from that page are wrong, and then one here, else `test_every_field_has_its_row` fails. A module
that begins to look at identities needs an entry in `MODULES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from tests.adapters.factory import edit_config, edit_tensors

SCOPE: dict[str, tuple[str, ...]] = {
    "base model": ("model-1", "model-2", ""),
    "dtype": ("float32", "bfloat16", ""),
    "layout": ("slots=1", "slots=2", ""),
    "tenant": ("", "alice", "bob"),
    "sharer": ("adapter:1", "group:1", "base-model", ""),
    "policy": ("isolated", "base+lr", "neutral", ""),
}
"""Values of the fields of `page-root`; the empty one stands for unset."""

TOKENS: dict[str, tuple[tuple[int, ...], ...]] = {
    "parent": ((), (1, 2, 3, 4), (1, 2, 3, 5)),
    "tokens": ((1, 2, 3, 4), (4, 3, 2, 1), (1, 2, 3, 0)),
}
"""Values of the fields of `page`, for pages of four tokens; a parent by its tokens."""

Edit = Callable[[Path], None]
TARGETS = [f"model.layers.{i}.self_attn.{name}_proj" for i in (0, 1) for name in "qv"]
"""The modules of the adapter that is edited."""
_LAST = f"base_model.model.{TARGETS[-1]}"


def _tensors(side: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    """Change A or B of one module."""

    def edit(folder: Path) -> None:
        name = f"{_LAST}.lora_{side}.weight"
        edit_tensors(folder, lambda found: found | {name: change(found[name]).contiguous()})

    return edit


def _bit(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(torch.int32)[-1, -1] ^= 1
    return changed


def _without_a_module(folder: Path) -> None:
    edit_tensors(folder, lambda found: {n: t for n, t in found.items() if _LAST not in n})
    edit_config(folder, target_modules=TARGETS[:-1])


def _in_another_layer(folder: Path) -> None:
    other = _LAST.replace("layers.1", "layers.2")
    edit_tensors(folder, lambda found: {n.replace(_LAST, other): t for n, t in found.items()})
    edit_config(folder, target_modules=[*TARGETS[:-1], TARGETS[-1].replace(".1.", ".2.")])


def _rank_of_zeros(folder: Path) -> None:
    """Computes the same, with a rank more."""
    pad = torch.nn.functional.pad
    edit_tensors(
        folder,
        lambda found: {
            n: pad(t, (0, 0, 0, 1)) if "lora_A" in n else pad(t, (0, 1)) for n, t in found.items()
        },
    )
    edit_config(folder, r=5, lora_alpha=10)


def _acts_from(*tokens: int) -> Edit:
    def edit(folder: Path) -> None:
        sidecar = {"schema": 1, "group": "g", "role": "r", "a_digest": {}, "acting_tokens": tokens}
        (folder / "lragent.json").write_text(json.dumps(sidecar))

    return edit


def _invoked_by(*tokens: int) -> Edit:
    return lambda folder: edit_config(folder, alora_invocation_tokens=list(tokens))


ADAPTER: dict[str, tuple[Edit, ...]] = {
    "number of modules": (_without_a_module,),
    "name of the linear layer": (_in_another_layer,),
    "rank": (_rank_of_zeros,),
    "scaling": (
        lambda folder: edit_config(folder, lora_alpha=16),
        lambda folder: edit_config(folder, use_rslora=True),
    ),
    "dtype of A, as `torch.float32`": (_tensors("A", torch.Tensor.bfloat16),),
    "number of dimensions of A": (_tensors("A", lambda t: t[None]),),
    "sizes of A": (_tensors("A", lambda t: t[:, 1:]),),
    "elements of A": (_tensors("A", _bit),),
    "dtype of B": (_tensors("B", torch.Tensor.bfloat16),),
    "number of dimensions of B": (_tensors("B", lambda t: t[None]),),
    "sizes of B": (_tensors("B", lambda t: t[1:]),),
    "elements of B": (_tensors("B", _bit),),
    "`aLoRA`": (_invoked_by(5, 6),),
    "invocation tokens": (_invoked_by(5, 7), _invoked_by(5)),
    "`acting tokens`": (_acts_from(5, 6),),
    "acting tokens": (_acts_from(5, 7), _acts_from(5)),
}
"""Edits of an adapter's folder, each of which changes one field of `adapter`."""

NOT_OF_THE_SLOT = {
    "scaling", "dtype of B", "sizes of B", "elements of B", "`acting tokens`", "acting tokens",
}  # fmt: skip
"""What an LR slot does not depend on where one agent fills it for all."""

GROUP: dict[str, tuple[Any, ...]] = {
    "policy of the group": ("base+lr", "base", "full"),
    "whether the base model is in it, 1 or 0": (False, True),
    "number of the group among the engine's, from 0": (0, 1),
    "generation, from 0": (0, 1),
    "part": ("one", "other"),
}
"""Values of the fields of `sharing-group`."""


class Place(StrEnum):
    """Where something that was made for one is found again for another."""

    PAGES = "pages of the embedded engine"
    CACHE_FILES = "saved pages of prompts"
    WEIGHTS = "adapters on the device"
    MEASURED = "measured policies"
    JOURNAL = "measurements of an evaluation"
    ANSWERS = "answers to a task's questions"
    RECORD = "training runs"
    BLOCKS = "vLLM's blocks and their validity bits"
    FOLDERS = "copies of adapter folders"
    ROWS = "down-projections of vLLM's workers"


MODULES: dict[str, str] = {
    "cache/client.py": Place.PAGES,
    "cache/manager.py": Place.PAGES,
    "sharing/bindings.py": Place.PAGES,
    "sharing/group.py": Place.PAGES,
    "sharing/groups.py": Place.PAGES,
    "sharing/slots.py": Place.PAGES,
    "engine/cache_file.py": Place.CACHE_FILES,
    "engine/lora_bank.py": Place.WEIGHTS,
    "engine/runner.py": Place.WEIGHTS,
    "sharing/measured.py": Place.MEASURED,
    "evaluation/run.py": Place.JOURNAL,
    "evaluation/tasks/answers.py": Place.ANSWERS,
    "training/record.py": Place.RECORD,
    "vllm/core/bindings.py": Place.BLOCKS,
    "vllm/core/block_validity.py": Place.BLOCKS,
    "vllm/core/adapters.py": Place.FOLDERS,
    "vllm/core/registry.py": Place.FOLDERS,
    "vllm/core/rows.py": Place.ROWS,
    "vllm/worker/row_loading.py": Place.ROWS,
    # What makes, checks or shows identities, and finds nothing by them:
    "content_hash.py": "",
    "adapters/__init__.py": "",
    "adapters/digests.py": "",
    "adapters/peft_folder.py": "",
    "adapters/sidecar.py": "",
    "adapters/trained_for.py": "warns once",
    "cache/keys.py": "",
    "cache/sharing_reasons.py": "labels of statistics",
    "cli/inspect_report.py": "",
    "cli/sharing_check.py": "",
    "cli/train.py": "",
    "engine/core.py": "drops pages that nobody asks for",
    "engine/engine.py": "",
    "engine/families.py": "",
    "engine/registry.py": "drops pages that nobody asks for",
    "evaluation/tasks/questions.py": "",
    "sharing/compare.py": "",
    "sharing/memory.py": "",
    "smollm2.py": "the one file that its constant names",
    "training/card.py": "",
    "training/output.py": "",
    "training/run.py": "",
    "training/samples.py": "",
    "vllm/core/bound_request.py": "",
}
"""Modules that look at digests, and the place at which they find something by them."""

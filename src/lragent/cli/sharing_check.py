"""Whether adapters can form a sharing group, and the memory that each policy takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lragent.sharing.policies import Policy

if TYPE_CHECKING:
    from lragent.adapters.model import Adapter

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` may be, from the least that the plugin takes."""
CAPTURE_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048)
"""Tokens of vLLM's CUDA graphs. By default they end at 512, and hand-overs wait for the host."""
HALF = 2
"""Bytes of an element in float16 and bfloat16."""


@dataclass(frozen=True)
class SharingCheck:
    """The answer for some adapters.

    Attributes:
        members: those that can be served.
        model, context: base model, and tokens of the context.
        obstacles: why an adapter cannot be served or two cannot share, by name or pair.
        notes: what is worth knowing.
        slots: LR slots under ``neutral`` and ``base+lr``.
        embedded, plugin: bytes by policy in a cache of 16-bit elements; the plugin's slots are as
            wide as its ``--max-lora-rank``. Empty when nothing can be served.
        command: how to start vLLM with these adapters.
    """

    members: tuple[str, ...]
    model: str
    context: int
    obstacles: Mapping[str, str]
    notes: tuple[str, ...] = ()
    slots: int = 0
    embedded: Mapping[str, int] = field(default_factory=dict)
    plugin: Mapping[str, int] = field(default_factory=dict)
    command: str = ""

    def to_json(self) -> dict[str, Any]:
        """In plain types."""
        return asdict(self)


def check_sharing(folders: Mapping[str, Path], model: str | None, context: int) -> SharingCheck:
    """Read the adapters and the model's configuration, and work it out.

    Raises ModelUnavailableError and UnsupportedModelError for the model, AdapterError when it is
    not named and the adapters do not name one.
    """
    from lragent.adapters import AdapterError, check_against_model, read_adapter
    from lragent.cli.base_model import empty_model
    from lragent.engine.families import read_shape
    from lragent.sharing.compare import compare_adapters
    from lragent.sharing.memory import KVSizes, bytes_by_policy

    obstacles: dict[str, str] = {}
    readable: dict[str, Adapter] = {}
    for name, folder in folders.items():
        try:
            readable[name] = read_adapter(folder)
        except AdapterError as error:
            obstacles[name] = str(error)
    base = model or next((a.base_model for a in readable.values() if a.base_model), None)
    if base is None:
        raise AdapterError("no adapter names its base model; give it with --model")
    shape = read_shape(empty_model(base), base)
    members: dict[str, Adapter] = {}
    for name, adapter in readable.items():
        try:
            check_against_model(adapter, shape, allow_other_base=model is not None)
            members[name] = adapter
        except AdapterError as error:
            obstacles[name] = str(error)
    if not members:
        return SharingCheck((), base, context, obstacles)
    report = compare_adapters(members)
    for pair in report.pairs:
        if not pair.shares_base and model is None:
            obstacles[f"{pair.first} + {pair.second}"] = "; ".join(pair.reasons)
    v_rank, k_rank = (
        max(adapter.rank_of(projection) for adapter in members.values())
        for projection in ("v_proj", "k_proj")
    )
    sizes = KVSizes(shape.layers, shape.kv_heads, shape.head_dim, HALF)
    adapters = list(members.values())
    embedded = bytes_by_policy(adapters, sizes, context, v_rank, k_rank)
    needed = max(adapter.rank for adapter in adapters)
    rank = next((rank for rank in VLLM_RANKS if rank >= needed), None)
    plugin = {}
    if rank is not None and not any(adapter.is_alora for adapter in adapters):
        plugin = bytes_by_policy(adapters, sizes, context, rank, rank if k_rank else 0)
    slots = len({a.slot_digest for a in adapters if a.slot_digest is not None})
    trained = {name: a.trained_for for name, a in members.items()}
    modules = sorted({m.projection for a in adapters for m in a.modules.values()})
    return SharingCheck(
        tuple(members),
        base,
        context,
        obstacles,
        tuple(_notes(members, slots)),
        slots,
        {policy.value: size for policy, size in embedded.items()},
        {policy.value: size for policy, size in plugin.items()},
        _command(base, folders, tuple(members), modules, trained, slots, rank, bool(k_rank)),
    )


def _notes(members: Mapping[str, Adapter], slots: int) -> list[str]:
    notes = []
    trained = {adapter.trained_for for adapter in members.values()}
    if len(trained) == 1 and None not in trained:
        notes.append(f"All were trained for {next(iter(trained))}: use that policy.")
    else:
        which = ", ".join(name for name, a in members.items() if a.trained_for is None)
        notes.append(
            f"Not trained for a policy by `lragent train`: {which}. Measure before you share."
            if which
            else "They were trained for different policies; share under the one of most of them."
        )
    last = [
        name
        for name, adapter in members.items()
        if adapter.trained_for == Policy.NEUTRAL and not adapter.acting_tokens
    ]
    if last:
        notes.append(
            f"These act from the prompt's last token on: {', '.join(last)}. Such adapters may "
            "lose right answers even unshared; train them with an --acting-text."
        )
    if slots > 1:
        notes.append(
            f"They have {slots} different A on the cached projections. With one common A "
            f"(`lragent train`) {len(members)} adapters take one LR slot."
        )
    return notes


def _command(
    base: str,
    folders: Mapping[str, Path],
    members: tuple[str, ...],
    targets: list[str],
    trained: Mapping[str, str | None],
    slots: int,
    rank: int | None,
    keys: bool,
) -> str:
    policies = {trained[name] for name in members}
    policy = policies.pop() if len(policies) == 1 else None
    option: dict[str, Any] = {"policy": policy or Policy.BASE_LR.value, "groups": [list(members)]}
    if slots > 1:
        option["slots"] = slots
    if keys:
        option["key_lora"] = True
    modules = " ".join(f"{name}={folders[name]}" for name in members)
    return (
        f"VLLM_PLUGINS=lragent vllm serve {base} --enable-lora \\\n"
        f"    --max-lora-rank {rank} --max-loras {len(members)} \\\n"
        f"    --lora-target-modules {' '.join(targets)} \\\n"
        f"    --cudagraph-capture-sizes {' '.join(map(str, CAPTURE_SIZES))} \\\n"
        f"    --lora-modules {modules} \\\n"
        f"    --additional-config '{json.dumps({'lragent': option})}'"
    )

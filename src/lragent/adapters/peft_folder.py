"""Read one PEFT folder into a checked Adapter; nothing that cannot be served gets through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lragent.adapters.digests import a_digests, adapter_digest, slot_digest
from lragent.adapters.errors import AdapterError
from lragent.adapters.model import CACHED_PROJECTIONS, Adapter, LoraModule
from lragent.adapters.peft_config import CONFIG_FILE, AdapterConfig, parse_config
from lragent.adapters.sidecar import Sidecar, read_sidecar
from lragent.adapters.tensors import WEIGHTS_FILE, pair_modules, read_weights
from lragent.files import expanded

_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")


def _check_files(folder: Path) -> None:
    if not folder.exists():
        raise AdapterError(
            f"no adapter folder {folder}; give a local folder "
            "(an adapter on the Hub is fetched with: hf download NAME --local-dir FOLDER)"
        )
    if not folder.is_dir():
        raise AdapterError(f"{folder} is a file; give the folder that holds {CONFIG_FILE}")
    if not (folder / CONFIG_FILE).is_file():
        inside = sorted(found.parent.name for found in folder.glob(f"*/{CONFIG_FILE}"))
        hint = f"; its subfolders {', '.join(inside)} hold one each" if inside else ""
        raise AdapterError(
            f"{folder} has no {CONFIG_FILE}, so it is no PEFT adapter{hint}; "
            "save the adapter with PEFT's save_pretrained"
        )
    if (folder / WEIGHTS_FILE).is_file():
        return
    for name in _PICKLES:
        if (folder / name).is_file():
            raise AdapterError(
                f"{folder / name} is a pickle file, which can run code when it is opened; "
                "convert it where you trust it: PeftModel.from_pretrained(model, FOLDER)"
                ".save_pretrained(NEW_FOLDER) writes safetensors"
            )
    raise AdapterError(f"{folder} has no {WEIGHTS_FILE}; save the adapter with PEFT 0.6 or newer")


def _check_rank(folder: Path, config: AdapterConfig, max_rank: int) -> None:
    if config.largest_rank > max_rank:
        raise AdapterError(
            f"{folder / CONFIG_FILE}: rank {config.largest_rank} (r, rank_pattern) is above the "
            f"limit of {max_rank}; raise the limit (max_lora_rank, --max-rank), or train with a "
            "smaller rank"
        )


def _notes(
    config: AdapterConfig,
    modules: Mapping[str, LoraModule],
    sidecar: Sidecar | None,
) -> tuple[str, ...]:
    projections = {module.projection for module in modules.values()}
    notes = list(config.notes)
    if sidecar is not None:
        notes.append(f"trained as {sidecar.role} of the group {sidecar.group}")
        if sidecar.trained_for is not None:
            notes.append(f"trained for the sharing policy {sidecar.trained_for}")
        if sidecar.trained_for == "neutral" and config.invocation_tokens is None:
            start = f"tokens {sidecar.acting_tokens}" if sidecar.acting_tokens else "last token"
            notes.append(f"acts from the prompt's {start} on")
    if config.invocation_tokens is not None:
        notes.append(
            "aLoRA: it acts from its invocation tokens on, alone or in a neutral group; it needs "
            "no LR slot"
        )
        return tuple(notes)
    outside = sorted(projections - {"q_proj", *CACHED_PROJECTIONS})
    if outside:
        notes.append(
            f"LoRA on {', '.join(outside)} has no cached term: it is served, but makes sharing "
            "with other adapters less accurate (not under neutral)"
        )
    if "k_proj" in projections:
        notes.append("LoRA on k_proj: keys are expanded and rotated again at each attention step")
    if not projections & set(CACHED_PROJECTIONS):
        notes.append("no LoRA on k_proj or v_proj: it needs no LR slot")
    return tuple(notes)


def read_adapter(path: str | Path, *, max_rank: int = 256) -> Adapter:
    """Read a PEFT LoRA adapter and check all that can be checked without its base model.

    Args:
        path: folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        max_rank: largest rank to accept.

    Raises:
        AdapterError: anything that the scheme cannot hold; the message says what to do.
    """
    folder = expanded(path)
    _check_files(folder)
    config = parse_config(folder / CONFIG_FILE)
    _check_rank(folder, config, max_rank)
    weights = folder / WEIGHTS_FILE
    modules = pair_modules(weights, read_weights(weights), config)
    digests = a_digests(modules)
    sidecar = read_sidecar(folder, digests)
    invocation = config.invocation_tokens
    acting = tuple(sidecar.acting_tokens or ()) or None if sidecar is not None else None
    return Adapter(
        path=folder,
        base_model=config.base_model,
        rank=max(module.rank for module in modules.values()),
        modules=modules,
        digest=adapter_digest(modules, invocation, None if invocation else acting),
        a_digests=digests,
        slot_digest=None if invocation else slot_digest(modules),
        cached_projections=tuple(name for name in CACHED_PROJECTIONS if name in digests),
        is_alora=invocation is not None,
        acting_tokens=invocation or acting,
        trained_for=None if sidecar is None else sidecar.trained_for,
        notes=_notes(config, modules, sidecar),
        config=config,
    )
